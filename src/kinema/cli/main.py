"""The `kinema` command. What fails for a reason that the user can mend ends in one line and exit code 2."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType

import click
import typer

from kinema.cli import catalogue, demo, evaluate, info, predict, recipes, train
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
app.command("datasets")(catalogue.datasets)
app.command("models")(catalogue.models)
app.command("info")(info.info)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)

_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, wherever it is not waited for: ends the program as Ctrl-C does."""


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        code = _fail(str(error))
    except StoppedBySignal as stop:
        sys.stderr.write(f"stopped; go on with: kinema train --resume {stop.folder}\n")
        code = 128 + stop.signum
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    except click.ClickException as error:
        code = _fail(error.format_message())
    except (KeyboardInterrupt, click.Abort) as stop:
        sys.stderr.write("stopped\n")
        code = 143 if isinstance(stop, _Terminated) else 130
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


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    raise _Terminated


if __name__ == "__main__":
    main()
