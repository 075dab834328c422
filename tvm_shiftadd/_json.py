"""JSON of plain values, and of the near-plain ones that NumPy and TVM hand out."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np


def encode(value: Any) -> bytes:
    """Compact JSON. Raises TypeError for what has no JSON form; NaN and infinity become null."""
    return msgspec.json.encode(value, enc_hook=_plain)


def encode_indented(value: Any) -> bytes:
    """JSON for people, with a line end; the same value always gives the same bytes."""
    return msgspec.json.format(encode(value), indent=2) + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    for kind in (str, int, float):
        # TVM's strings and numbers are subclasses, which msgspec does not take.
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
