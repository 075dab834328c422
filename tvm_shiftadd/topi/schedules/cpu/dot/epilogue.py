"""What a fused kernel of a processor does with its sums before they leave the registers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tvm.script import tirx as T

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.epilogue import Epilogue as Base
from tvm_shiftadd.topi.schedules.fusion.function import Kernel

from .instructions import InstructionSet, shuffled
from .stored import Stored, View, Wide


@dataclass(frozen=True)
class Epilogue(Base):
    """What follows the sums of a kernel, by the instructions of ``isa``."""

    out: Stored | Wide
    residual: Stored | Wide | None = None
    isa: InstructionSet = field(kw_only=True)

    @property
    def residual_zero(self) -> int:
        """The byte of a stored operand of an addition that stands for zero."""
        return self.residual.zero if isinstance(self.residual, Stored) else 0

    @property
    def residual_channels(self) -> range | None:
        """The channels of the result that a view of a map has."""
        view = self.residual
        if not isinstance(view, View):
            return None
        return range(view.before, view.before + view.channels)

    def constant(self, constants: Any, name: str, channel: Any) -> Any:
        """One row's values of a vector of channels."""
        return constants.vload([self.rows.index(name), channel], dtype=self.isa.vector_of("int32"))

    def shifted(self, sums: Any, constants: Any, channel: Any, residual: Any = None) -> Any:
        """A vector of int32 results, not yet limited, from one of sums.

        ``residual`` is as many values of the other operand of an addition as stored, if any.
        """

        def row(name: str) -> Any:
            return self.constant(constants, name, channel)

        value = T.bind(sums)
        if self.scaled:
            value = value * row("factor")
        if self.residual is not None:
            other = residual.astype(self.isa.vector_of("int32"))
            if "mask" in self.rows:
                other = other & row("mask")
            value = (value << row("lhs_shift")) + (other << row("rhs_shift"))
        if "offset" in self.rows:
            value = T.bind(value + row("offset"))
        if isinstance(self.out, Wide):
            return value
        if "left" in self.rows:
            value = value << row("left")
        return T.bind(value >> row("right"))

    def limited(self, values: Any) -> Any:
        """Stored bytes from bytes that were saturated to their type but not yet limited."""
        lanes = int(values.ty.dtype.lanes)
        kind, least, most = self.narrow_type
        if self.lo > least:
            values = tirx.max(values, T.broadcast(tirx.const(self.lo, kind), lanes))
        if self.hi < most:
            values = tirx.min(values, T.broadcast(tirx.const(self.hi, kind), lanes))
        values = T.reinterpret(values, dtype=f"uint8x{lanes}")
        return values ^ T.broadcast(T.uint8(self.zero), lanes) if self.zero else values

    @property
    def zero(self) -> int:
        """The byte of a stored result that stands for zero."""
        return self.out.zero if isinstance(self.out, Stored) else 0

    @property
    def narrow_type(self) -> tuple[str, int, int]:
        """The type of bytes before they are stored, and its least and greatest value."""
        return ("int8", -128, 127) if self.zero else ("uint8", 0, 255)

    def operand(self, made: Kernel, image: Any, y: Any, x: Any, channel: Any) -> Any:
        """Values of an addition's other operand at an output pixel; None without one."""
        if self.residual is None:
            return None
        kind = f"{self.residual.dtype}x{self.isa.lanes}"
        at = self.residual.at(y, x) + channel
        return made["residual"].vload([image, at], dtype=kind)

    def store(self, out: Any, image: Any, at: Any, places: list[int], results: list[Any]) -> None:
        """Write vectors of results, as ``shifted`` gives them.

        ``places`` are their offsets from ``at``, ascending. Four at a time become bytes.
        """
        lanes = self.isa.lanes
        if isinstance(self.out, Wide):
            for place, result in zip(places, results, strict=True):
                T.buffer_store(out, result, [image, T.ramp(at + place, 1, lanes)])
            return
        for first in range(0, len(results), 4):
            four, where = results[first : first + 4], places[first : first + 4]
            full = four + four[:1] * (4 - len(four))
            values = T.bind(self.limited(self.isa.narrow(full, self.narrow_type[0], natural=True)))
            for start, size in _pieces(where, lanes):
                order = range(start * lanes, start * lanes + size)
                part = values if size == self.isa.vector else shuffled([values], order)
                T.buffer_store(out, part, [image, T.ramp(at + where[start], 1, size)])

    def tensors(self, batch: Any) -> dict[str, tuple[tuple[Any, ...], str]]:
        """The kernel's parameters for what is done here, behind those of its sums."""
        found = {"constants": ((len(self.rows), self.outputs), "int32")}
        if self.residual is not None:
            found["residual"] = ((batch, self.residual.size), self.residual.dtype)
        return {**found, "out": ((batch, self.out.size), self.out.dtype)}


def _pieces(places: list[int], lanes: int) -> list[tuple[int, int]]:
    """Of at most four vectors' places: the first one and the bytes of what is written at once."""
    if len(places) == 4 and places[3] - places[0] == 3 * lanes:
        return [(0, 4 * lanes)]
    pieces: list[tuple[int, int]] = []
    index = 0
    while index < len(places):
        pair = index + 1 < len(places) and places[index + 1] - places[index] == lanes
        pieces.append((index, 2 * lanes if pair else lanes))
        index += 2 if pair else 1
    return pieces
