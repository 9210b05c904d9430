"""Numbers as people read them."""

from __future__ import annotations

import pytest

from kinema.wording import byte_size, clock


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (51_200, "51.2 kB"), (3.44e9, "3.44 GB"), (2e12, "2 TB")],
)
def test_sizes_are_said_in_units(num_bytes: float, text: str) -> None:
    assert byte_size(num_bytes) == text


@pytest.mark.parametrize(
    ("time_s", "text", "tenths"),
    [(0, "0:00", "0:00.0"), (59.96, "0:59", "0:59.9"), (750.3, "12:30", "12:30.3"), (3723, "1:02:03", "1:02:03.0")],
)
def test_places_in_a_video(time_s: float, text: str, tenths: str) -> None:
    assert clock(time_s) == text
    assert clock(time_s, tenths=True) == tenths
