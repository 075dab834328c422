"""What a conversion decides: the integers of every layer and the scale of every stored tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ChannelFactor:
    """A factor a channel made of shifted copies: the sum of its codes times 2^-exponent.

    codes: uint8 ``[K, O]``, term codes, K in 1 to 3; exponent: int32 ``[O]``, what the scale
    exponent of the accumulator gains.
    """

    codes: NDArray[np.uint8]
    exponent: NDArray[np.int32]

    @property
    def copies(self) -> int:
        """K, the shifted copies of the accumulator that are added up."""
        return int(self.codes.shape[0])


@dataclass(frozen=True)
class LayerPlan:
    """The integers of one weight layer.

    codes: uint8 ``[K, R, O]``, one 4-bit code an element (not packed); R is the flattened
    reduction in the order (kh, kw, input channel of the group), O the output channels.
    weight_exponent: int32 ``[O]``, b of the specification: weight = 2^-b * sum of terms.
    bias: int32 ``[O]`` on the accumulator's scale 2^-(a_x + b). factor: what the accumulator, bias
    included, is multiplied by, if anything.
    """

    codes: NDArray[np.uint8]
    weight_exponent: NDArray[np.int32]
    bias: NDArray[np.int32]
    factor: ChannelFactor | None = None

    @property
    def terms(self) -> int:
        """K, the terms a weight may have."""
        return int(self.codes.shape[0])


@dataclass(frozen=True)
class AdderPlan:
    """The integers of one adder layer, all on the scale 2^-a of its input.

    weight: int8 ``[R, O]``, R as in :class:`LayerPlan`; bias: int32 ``[O]``, with what weights
    beyond int8 add to it; factor: what the accumulator is multiplied by, if anything.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    factor: ChannelFactor | None = None


@dataclass(frozen=True)
class Plan:
    """``layers`` and ``adders`` by node name; ``exponents`` by tensor name: a in the scale 2^-a of
    a stored tensor; ``unsigned``: the stored tensors that are uint8, all others are int8.

    A tensor without an exponent is never stored: it stays a wide accumulator between two operators
    of a region, or a float on the host.
    """

    layers: Mapping[str, LayerPlan]
    exponents: Mapping[str, int]
    adders: Mapping[str, AdderPlan] = field(default_factory=dict)
    unsigned: frozenset[str] = frozenset()

    def dtype(self, name: str) -> str:
        """The type of stored tensor ``name``."""
        return "uint8" if name in self.unsigned else "int8"
