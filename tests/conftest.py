"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tests.shape_checks
from jaxtyping import install_import_hook

# Before anything imports torch: on cores that others use too, threads wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before anything imports kinema.
install_import_hook("kinema", f"{tests.shape_checks.__name__}.checked")

REPOSITORY = Path(__file__).parent.parent


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


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never read or fill the user's cache."""
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path_factory.getbasetemp() / "kinema-cache"))
