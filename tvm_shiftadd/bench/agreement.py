"""Whether a network's outputs are what its float form gives, before anybody times it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import VerificationError

Array = NDArray[Any]

#: The most that a float runtime's outputs may differ from float by summing in another order.
FLOAT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Agreement:
    """error: distance from float over the size of float's outputs (root of summed squares).

    same_class: percent of the rows of scores with the same largest one; None where the first
    output is no row of scores an image.
    """

    error: float
    same_class: float | None


def compare(name: str, outputs: Sequence[Array], reference: Sequence[Array]) -> Agreement:
    """Compare one run's outputs with float's; VerificationError where they cannot be compared."""
    shapes, expected = ([list(a.shape) for a in group] for group in (outputs, reference))
    if shapes != expected:
        raise VerificationError(f"{name}: expected outputs {expected}, got {shapes}")
    distance = size = 0.0
    for mine, wanted in zip(outputs, reference, strict=True):
        if not np.isfinite(mine).all():
            raise VerificationError(f"{name}: expected finite outputs, got NaN or infinity")
        difference = mine.astype(np.float64) - wanted
        distance += float((difference**2).sum())
        size += float((wanted.astype(np.float64) ** 2).sum())
    scores, wanted = outputs[0], reference[0]
    same = None
    if scores.ndim == 2 and scores.shape[1] > 1:
        same = 100.0 * float((scores.argmax(axis=1) == wanted.argmax(axis=1)).mean())
    return Agreement(float(np.sqrt(distance / size)) if size else float(distance > 0), same)


def check_float(name: str, found: Agreement) -> None:
    """Raise VerificationError for a float runtime that computes something else."""
    if found.error > FLOAT_TOLERANCE:
        raise VerificationError(
            f"{name}: expected the float network's outputs, got ones that differ by "
            f"{100 * found.error:.3g} %"
        )
