"""The service under load, for a few seconds; `benchmarks/serve_load.py` says how it bears two minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY


@pytest.mark.slow
def test_many_clients_are_answered_and_nothing_is_left(tmp_path: Path) -> None:
    result = tmp_path / "load.json"
    command = [sys.executable, "benchmarks/serve_load.py", "--quick", "--json", str(result)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert found["alive"]
    assert found["files_left"] == found["left_behind_the_end"] == found["errors"] == []
    assert found["clip_seconds"]["number"] > 0
