"""What a CUDA kernel does with its sums before they leave the registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.epilogue import Epilogue as Base

from .intrinsics import QUAD, pack


@dataclass(frozen=True)
class Tensor:
    """A plain tensor with channels last, and its type: "int8", "uint8" or "int32"."""

    channels: int
    dtype: str


@dataclass(frozen=True)
class Epilogue(Base):
    """What follows the sums of a CUDA kernel."""

    out: Tensor
    residual: Tensor | None = None

    def tensors(self, shape: Sequence[Any]) -> dict[str, tuple[tuple[Any, ...], str]]:
        """The kernel's parameters for what is done here; ``shape`` is that of its result."""
        found: dict[str, tuple[tuple[Any, ...], str]] = {
            "constants": ((len(self.rows), self.outputs), "int32")
        }
        if self.residual is not None:
            found["residual"] = (tuple(shape), self.residual.dtype)
        return {**found, "out": (tuple(shape), self.out.dtype)}


class Writer:
    """Code that takes a thread's sums of ``width`` neighbouring channels to the result.

    ``views`` are the result and the other operand of an addition as matrices: a row a pixel.
    ``grain`` divides the place of every first channel.
    """

    def __init__(
        self, epilogue: Epilogue, constants: Any, views: dict[str, Any], grain: int = QUAD
    ) -> None:
        self.epilogue, self.constants, self.views = epilogue, constants, views
        self.grain = grain
        #: Whether channels are read and written four at a time.
        self.whole = epilogue.out.channels % QUAD == 0 and grain % QUAD == 0

    def load_constants(self, channel: Any, width: int) -> Callable[[str, int], Any]:
        """Load the constants of ``width`` channels, a multiple of four; gives those by row."""
        rows, last = self.epilogue.rows, self.epilogue.outputs - QUAD
        held = T.alloc_buffer((len(rows) * width,), "int32", scope="local")
        for index in range(len(rows)):
            for quad in range(0, width, QUAD):
                place = index * width + quad
                if self.whole:
                    first = channel + quad
                    if quad and self.grain % width:
                        # What the last group does not have may lie behind the constants.
                        first = T.min(first, last)
                    value = self.constants.vload([index, first], dtype="int32x4")
                    T.buffer_store(held, value, [T.ramp(place, 1, QUAD)])
                    continue
                for lane in range(QUAD):
                    column = T.min(channel + quad + lane, self.epilogue.outputs - 1)
                    T.buffer_store(held, self.constants[index, column], [place + lane])
        return lambda name, lane: held[rows.index(name) * width + lane]

    def store(
        self,
        pixel: Any,
        channel: Any,
        sums: Sequence[Any],
        constant: Callable[[str, int], Any],
        limit: Any,
    ) -> None:
        """Write the results of a pixel; channels from ``limit`` on are not there."""
        for quad in range(0, len(sums), QUAD):
            first = channel + quad
            with T.If(first < limit), T.Then():
                others = self._others(pixel, first, limit)
                values = [
                    self._result(sums[quad + lane], quad + lane, constant, others[lane])
                    for lane in range(QUAD)
                ]
                self._write(pixel, first, limit, values)

    def _others(self, pixel: Any, channel: Any, limit: Any) -> list[Any]:
        residual = self.epilogue.residual
        if residual is None:
            return [None] * QUAD
        view = self.views["residual"]
        if not self.whole:
            columns = [T.min(channel + lane, limit - 1) for lane in range(QUAD)]
            return [T.bind(view[pixel, column].astype("int32")) for column in columns]
        value = view.vload([pixel, channel], dtype=f"{residual.dtype}x{QUAD}")
        if residual.dtype == "int32":
            held = T.alloc_buffer((QUAD,), "int32", scope="local")
            T.buffer_store(held, value, [T.ramp(0, 1, QUAD)])
            return [held[lane] for lane in range(QUAD)]
        word = T.bind(T.reinterpret(value, dtype="int32"))
        return [byte_of(word, lane, residual.dtype) for lane in range(QUAD)]

    def _result(
        self, total: Any, lane: int, constant: Callable[[str, int], Any], other: Any
    ) -> Any:
        rows = self.epilogue.rows
        value = total + constant("bias", lane)
        if "factor" in rows:
            value = value * constant("factor", lane)
        if other is not None:
            value = (value << constant("lhs_shift", lane)) + (other << constant("rhs_shift", lane))
        if "offset" in rows:
            value = value + constant("offset", lane)
        if "left" in rows:
            value = value << constant("left", lane)
        if "right" not in rows:
            return T.bind(value)
        value = T.min(value >> constant("right", lane), tirx.const(self.epilogue.hi, "int32"))
        return T.bind(T.max(value, tirx.const(self.epilogue.lo, "int32")))

    def _write(self, pixel: Any, channel: Any, limit: Any, values: list[Any]) -> None:
        out, dtype = self.views["out"], self.epilogue.out.dtype
        if self.whole and dtype != "int32":
            value = T.reinterpret(pack(values), dtype=f"{dtype}x{QUAD}")
            T.buffer_store(out, value, [pixel, T.ramp(channel, 1, QUAD)])
            return
        for lane, value in enumerate(values):
            if self.whole:
                T.buffer_store(out, value.astype(dtype), [pixel, channel + lane])
                continue
            with T.If(channel + lane < limit), T.Then():
                T.buffer_store(out, value.astype(dtype), [pixel, channel + lane])


def byte_of(word: Any, lane: int, dtype: str) -> Any:
    """One byte of an int32 as the int32 it is by its type."""
    shift = 8 * lane
    if dtype == "uint8":
        return (word >> tirx.const(shift, "int32")) & tirx.const(255, "int32")
    return (word << tirx.const(24 - shift, "int32")) >> tirx.const(24, "int32")
