"""The `kinema` command. What fails for a reason that the user can mend ends in one line and exit code 2."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from types import FrameType

import typer

from kinema.cli import (
    catalogue,
    compare,
    crossval,
    data,
    demo,
    ensemble,
    evaluate,
    explain,
    info,
    predict,
    recipes,
    serve,
    studies,
    study,
    submit,
    sweep,
    threshold,
    timeline,
    train,
    watch,
)
from kinema.types import StoppedBySignal, UserError

app = typer.Typer(
    name="kinema",
    help="From a folder of videos to a trained, honestly evaluated action recogniser.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.command("datasets")(catalogue.datasets)
app.command("models")(catalogue.models)
app.command("info")(info.info)
app.command("train")(train.train)
app.command("crossval")(crossval.crossval)
app.add_typer(study.app, name="study")
app.command("sweep")(sweep.sweep)
app.command("studies")(studies.studies)
app.command("evaluate")(evaluate.evaluate)
app.command("submit")(submit.submit)
app.command("compare")(compare.compare)
app.command("threshold")(threshold.threshold)
app.command("predict")(predict.predict)
app.command("watch")(watch.watch)
app.command("serve")(serve.serve)
app.command("timeline")(timeline.timeline)
app.add_typer(explain.app, name="explain")
app.command("ensemble")(ensemble.ensemble)

_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


# What typer raises for a wrong command line. It comes from a copy of click inside typer, or from click itself in
# older versions, and is not exported.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]

_INTERRUPTED, _TERMINATED = 130, 143  # 128 + the signal's number, as shells have it


def main() -> None:
    """Run the command line and exit."""
    # Read when torch is loaded. By default OpenMP's threads compute on while they wait for one another, for up to some
    # ten milliseconds at every operation, on cores that the processes that read clips need.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # like standard error: names of files need not be text
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="kinema", standalone_mode=False)
        if code == _INTERRUPTED:
            sys.stderr.write("stopped\n")
    except UserError as error:
        code = _fail(str(error))
    except StoppedBySignal as stop:
        can_go_on = stop.folder.is_dir()  # not where nothing was trained yet
        sys.stderr.write(f"stopped; go on with: kinema train --resume {stop.folder}\n" if can_go_on else "stopped\n")
        code = 128 + stop.signum
    except _CommandLineError as error:
        code = _fail(_one_line(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("stopped\n")
        code = _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on; nor will Python's exit
        code = 1
    except OSError as error:
        if error.errno not in _WRITE_ERRORS:
            raise
        code = _fail(f"{error.filename or 'writing'}: {error.strerror}; make room and try again")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> int:
    sys.stderr.write("".join(f"error: {line}\n" for line in message.splitlines()))
    return 2


def _one_line(error: Exception) -> str:
    """What was wrong with the command line, and where its help is."""
    context = getattr(error, "ctx", None)
    command = "kinema" if context is None else context.command_path
    message: str = error.format_message()  # type: ignore[attr-defined]
    return f"{' '.join(message.split()).rstrip('.')}; see {command} --help"


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    """SIGTERM, wherever it is not waited for: ends the program, and what has to be tidied up is."""
    sys.stderr.write("stopped\n")
    sys.exit(_TERMINATED)


if __name__ == "__main__":
    main()
