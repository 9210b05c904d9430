"""Fixtures that every test may use."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tests.shape_checks
from hypothesis import settings
from jaxtyping import install_import_hook
from tests.commands import Answer, Kinema

# Before anything imports torch: on cores that others use too, threads wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes is the machine's business.
settings.register_profile("kinema", deadline=None)
settings.load_profile("kinema")

# Before anything imports kinema.
install_import_hook("kinema", f"{tests.shape_checks.__name__}.checked")

if TYPE_CHECKING:
    from tests.browser import Browser

REPOSITORY = Path(__file__).parent.parent


LONGEST = ("test_documents.py", "test_processes.py")
"""Files whose tests take minutes each. They begin first, so that no core ends up with one of them alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with the real clips, annotations and weights that are not part of the repository."""
    root = Path(os.environ.get("KINEMA_TEST_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if root.is_dir():
        return root
    message = f"real clips are not at {root}; set KINEMA_TEST_DATA"
    if os.environ.get("KINEMA_REQUIRE_TEST_DATA") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def chromium_window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser without a network; starting one takes seconds."""
    from tests.browser import chromium  # not before it is wanted: what drives it takes long to load

    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium_window: Browser) -> Browser:
    """The same, looking at a light page on a wide screen."""
    chromium_window.look()
    return chromium_window


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never read or fill the user's cache."""
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path_factory.getbasetemp() / "kinema-cache"))


@pytest.fixture(autouse=True, scope="session")
def _own_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and fixtures of whatever scope, never write an index beside the real clips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINEMA_INDEX", str(tmp_path_factory.getbasetemp() / "kinema-index"))
        yield


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """What a command sets of the log is gone when the next test begins."""
    logger = logging.getLogger("kinema")
    before = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture
def kinema(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kinema]:
    """Runs a command in this process, in an empty folder."""
    from kinema.cli.main import main

    handler = signal.getsignal(signal.SIGTERM)
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["kinema", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Answer(caught.value.code, said.out, said.err)

    yield run
    signal.signal(signal.SIGTERM, handler)
