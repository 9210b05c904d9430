"""The service keeps to its own description, whatever is asked: requests are made up from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.inference.served import Brightness, make_weights

import kinema
from kinema.inference.serving.app import make_app
from kinema.inference.serving.service import Limits, Service, opened

TOKEN = "made-up"

SETTINGS = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    recogniser = kinema.load(make_weights(tmp_path_factory.mktemp("weights") / "brightness"), device="cpu")
    limits = Limits(upload_bytes=100_000, timeout_s=20)
    with opened(recogniser, name="brightness", limits=limits, token=TOKEN, follower=Brightness) as service:
        yield service
        assert not list(service.folder.iterdir())


@pytest.fixture
def described(service: Service) -> Any:
    app = make_app(service, is_local=False)  # it asks by a name of its own
    return schemathesis.openapi.from_asgi(f"/openapi.json?token={TOKEN}", app)


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        ("POST /predict", GenerationMode.POSITIVE),
        ("POST /predict", GenerationMode.NEGATIVE),
        ("GET /health", GenerationMode.POSITIVE),
        ("GET /metrics", GenerationMode.POSITIVE),
    ],
)
def test_what_the_description_says_holds(described: Any, operation: str, mode: GenerationMode) -> None:
    method, path = operation.split()

    @SETTINGS
    @given(case=described[path][method].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        # No bytes that it makes up are a video.
        unlike = [positive_data_acceptance] if method == "POST" else []
        case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, excluded_checks=unlike)

    check()


def test_the_description_says_what_there_is(described: Any, tmp_path: Path) -> None:
    raw = described.raw_schema
    assert set(raw["paths"]) == {"/predict", "/health", "/metrics"}
    predict = raw["paths"]["/predict"]["post"]
    assert {each["name"] for each in predict["parameters"]} == {"start_s", "stop_s", "top"}
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/octet-stream"}
    statuses = {"200", "400", "401", "403", "408", "413", "415", "422", "429", "500", "503", "504"}
    assert set(predict["responses"]) == statuses
