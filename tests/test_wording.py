"""Numbers as people read them."""

from __future__ import annotations

import pytest

from kinema.wording import byte_size


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (51_200, "51.2 kB"), (3.44e9, "3.44 GB"), (2e12, "2 TB")],
)
def test_sizes_are_said_in_units(num_bytes: float, text: str) -> None:
    assert byte_size(num_bytes) == text
