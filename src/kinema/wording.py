"""Numbers as people read them, the same in a terminal and on a page."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percent(share: float | None, *, missing: str = "-") -> str:
    """`83.3 %`, or a dash where there is no number."""
    return missing if share is None or math.isnan(share) else f"{share:.1%}".replace("%", " %")


def percent_range(interval: Sequence[float] | None, *, missing: str = "-") -> str:
    """`72.1 to 90.4 %`, or a dash where there is no interval."""
    return missing if interval is None else f"{100 * interval[0]:.1f} to {percent(interval[1])}"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def clock(time_s: float, *, tenths: bool = False) -> str:
    """A place in a video: `0:07`, `12:30`, `1:02:03`, with tenths `0:07.4`. Never later than it is."""
    whole = int(time_s)
    minutes = f"{whole // 60 % 60}:{whole % 60:02d}"
    text = minutes if whole < 3600 else f"{whole // 3600}:{minutes:0>5}"
    return text + (f".{int(10 * time_s + 1e-6) % 10}" if tenths else "")


def byte_size(num_bytes: float) -> str:
    """`114 kB`, `2.2 MB`, `6.15 GB`: at most three digits, powers of ten."""
    amount = float(num_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB"
