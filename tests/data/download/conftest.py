"""A server on this machine, and no waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from tests.loopback import Site, only_loopback, serving

from kinema.data.download import fetch as fetch_module


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited between attempts, without waiting. And no other machine is reached."""
    only_loopback(monkeypatch)
    waited: list[float] = []
    monkeypatch.setattr(fetch_module, "time", SimpleNamespace(sleep=waited.append, time=time.time))
    return waited
