"""What a fused kernel does with its sums before they leave the registers.

In the order of the dialect's operators: the optional factor of ``shiftadd.scale``, the optional
``shiftadd.add`` of another map, then ``shiftadd.requantize``. Everything that differs by channel
stands in one int32 matrix of constants, a row a quantity, made once when a network is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tvm_shiftadd._compat import te, tirx
from tvm_shiftadd.topi.scaling import clamp, int32, of_channel
from tvm_shiftadd.topi.schedules.shapes import round_up
from tvm_shiftadd.topi.terms import shift_term

#: Channels are padded to a whole multiple of this in the constants; vectors of sums have as many,
#: or divide it.
CHANNELS = 16
_MAX_SHIFT = 31


class Map(Protocol):
    """A tensor as a target's kernels have it in memory."""

    @property
    def channels(self) -> int:
        """Its channels, without what pads them."""

    @property
    def dtype(self) -> str:
        """The type of its elements; "int32" where they are sums."""


@dataclass(frozen=True)
class Epilogue:
    """From sums to ``out``; ``lo`` and ``hi`` are the bounds of a requantised result.

    ``scaled``: a factor for each channel comes first; ``residual`` is what is then added.
    """

    out: Map
    lo: int = -128
    hi: int = 127
    scaled: bool = False
    residual: Map | None = None

    @property
    def residual_zero(self) -> int:
        """What a zero of ``residual`` is read as."""
        return 0

    @property
    def residual_channels(self) -> range | None:
        """The channels of the result that ``residual`` has; None for all."""
        return None

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of the matrix of constants.

        ``bias`` is where the sums begin; then factor, the two shifts of an addition, what is
        added behind either of them, and the two shifts of the requantisation. The mask is -1 for
        the channels that the other operand has.
        """
        names = ["bias"]
        if self.scaled:
            names.append("factor")
        if self.residual is not None:
            names += ["lhs_shift", "rhs_shift"]
        if self.residual_channels is not None:
            names.append("mask")
        if self.scaled or self.residual is not None:
            names.append("offset")
        if self.out.dtype != "int32":
            # Behind an addition the left shift is part of its own.
            names += ["right"] if self.residual is not None else ["left", "right"]
        return tuple(names)

    @property
    def outputs(self) -> int:
        """Columns of the matrix of constants."""
        return round_up(self.out.channels, CHANNELS)


def constants(
    epilogue: Epilogue,
    bias: Any,
    operands: dict[str, Any],
    zero: int = 0,
    weight_sums: Any = None,
) -> Any:
    """The matrix of constants of an epilogue, int32 ``[len(epilogue.rows), epilogue.outputs]``.

    ``operands`` holds "factor" (uint8 codes ``[K, C]`` or ``[K, 1]``), "lhs_shift", "rhs_shift" and
    "shift" (int32 ``[C]`` or ``[1]``) as far as the epilogue has them. ``zero`` is what the sums
    take an input of zero as: 0, 128 or -128; ``weight_sums``, int32 ``[O]``, is what it is
    multiplied with where it is not 0.
    """
    outputs = epilogue.out.channels
    shift = operands.get("shift")

    def rounding(o: Any) -> Any:
        if shift is None:
            return int32(0)
        n = of_channel(shift, (o,))
        half = int32(1) << (clamp(n, 1, _MAX_SHIFT) - int32(1))
        return tirx.Select(n >= int32(1), half, int32(0))

    def value(name: str, o: Any) -> Any:
        if name == "bias":
            start = bias[o]
            if zero:
                of_zero = weight_sums[o] << int32(7)
                start = start - of_zero if zero > 0 else start + of_zero
            return start if "offset" in epilogue.rows else start + rounding(o)
        if name == "factor":
            return _factor(operands["factor"], o)
        if name == "mask":
            return _mask(epilogue, o)
        if name == "offset":
            # What the other operand's zeros, as they are read, add to the sum.
            zeros = int32(0)
            if epilogue.residual_zero:
                zeros = int32(epilogue.residual_zero) << operand_shift("rhs_shift", o)
            return rounding(o) - (zeros & _mask(epilogue, o))
        if name in ("lhs_shift", "rhs_shift"):
            return operand_shift(name, o)
        n = of_channel(shift, (o,))
        return clamp(n, 0, _MAX_SHIFT) if name == "right" else left(o)

    def left(o: Any) -> Any:
        if shift is None:
            return int32(0)
        return clamp(int32(0) - of_channel(shift, (o,)), 0, _MAX_SHIFT)

    def operand_shift(name: str, o: Any) -> Any:
        # Two left shifts that together leave 32 bits leave nothing, as one by 31 of proved sums.
        return tirx.min(of_channel(operands[name], (o,)) + left(o), int32(_MAX_SHIFT))

    def body(row: Any, o: Any) -> Any:
        result = int32(0)
        for index, name in enumerate(epilogue.rows):
            result = tirx.if_then_else(row == index, value(name, o), result)
        return tirx.if_then_else(o < outputs, result, int32(0))

    return te.compute((len(epilogue.rows), epilogue.outputs), body, name="constants")


def _factor(codes: Any, o: Any) -> Any:
    """The sum of a factor's terms: one, shifted."""
    single = isinstance(codes.shape[1], tirx.IntImm) and int(codes.shape[1]) == 1
    total = int32(0)
    for term in range(int(codes.shape[0])):
        total = total + shift_term(int32(1), codes[term, 0 if single else o].astype("int32"))
    return total


def _mask(epilogue: Epilogue, o: Any) -> Any:
    """-1 for the channels that an addition's other operand has, else 0."""
    own = epilogue.residual_channels
    if own is None:
        return int32(-1)
    return tirx.Select(tirx.all(o >= own.start, o < own.stop), int32(-1), int32(0))
