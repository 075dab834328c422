"""What a conversion decides: the integers of every layer and the scale of every stored tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LayerPlan:
    """The integers of one weight layer.

    codes: uint8 ``[K, R, O]``, one 4-bit code an element (not packed); R is the flattened
    reduction in the order (kh, kw, input channel of the group), O the output channels.
    weight_exponent: int32 ``[O]``, b of the specification: weight = 2^-b * sum of terms.
    bias: int32 ``[O]`` on the accumulator's scale 2^-(a_x + b).
    """

    codes: NDArray[np.uint8]
    weight_exponent: NDArray[np.int32]
    bias: NDArray[np.int32]

    @property
    def terms(self) -> int:
        """K, the terms a weight may have."""
        return int(self.codes.shape[0])


@dataclass(frozen=True)
class Plan:
    """``layers`` by node name; ``exponents`` by tensor name: a in the scale 2^-a of an int8 tensor.

    A tensor without an exponent is never stored as int8: it stays a wide accumulator between two
    operators of a region, or a float on the host.
    """

    layers: Mapping[str, LayerPlan]
    exponents: Mapping[str, int]
