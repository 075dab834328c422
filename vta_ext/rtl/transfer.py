"""What LOAD and STORE have in common: sizes of elements in beats, and an instruction's geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.isa.schema import Memory
from vta_ext.rtl.decode import Decoded
from vta_ext.rtl.port import ADDRESS_BITS
from vta_ext.rtl.requests import COUNT_BITS

#: Ports of what runs LOADs or STOREs. ``start`` takes ``word``, allowed with ``ready``. ``done`` is
#: 1 when the instruction that was first is through; it stays until ``done_ready``.
RUNNER_PORTS: Final[dict[str, wiring.Member]] = {
    "word": In(128),
    "start": In(1),
    "ready": Out(1),
    "idle": Out(1),
    "done": Out(1),
    "done_word": Out(128),
    "done_ready": In(1),
}
#: Enough for the place of an element in a beat.
PLACE_BITS = 4


@dataclass(frozen=True)
class Shape:
    """An element of a memory, in pieces of at most a beat: ``chunks`` of ``chunk`` bytes each.

    ``share``: elements in a beat, 1 where an element is as large or larger.
    """

    memory: Memory
    element: int
    chunk: int
    beat: int

    @property
    def chunks(self) -> int:
        """Beats of an element, or 1."""
        return self.element // self.chunk

    @property
    def share(self) -> int:
        """Elements of a beat, or 1."""
        return self.beat // self.chunk


def shape(memory: Memory, config: Config, beat: int) -> Shape:
    """The shape of an element of ``memory`` on a port of ``beat`` bytes."""
    element: int = getattr(config, memory.element)
    return Shape(memory, element, min(element, beat), beat)


def row_bits(shapes: tuple[Shape, ...]) -> int:
    """Bits of the size of the longest row in bytes."""
    return COUNT_BITS + max(entry.element.bit_length() - 1 for entry in shapes)


@dataclass(frozen=True)
class Geometry:
    """Bytes of a transfer in DRAM, and where in a beat it begins, counted in elements.

    touching: whether each row begins where the one before it ends.
    """

    address: Signal
    stride: Signal
    row_bytes: Signal
    place: Signal
    touching: Signal


def geometry(m: Module, fields: Decoded, shapes: tuple[Shape, ...], config: Config) -> Geometry:
    """Shifts by the size of the element that the instruction names: all sizes are powers of two."""
    bits = row_bits(shapes)
    found = Geometry(Signal(ADDRESS_BITS), Signal(bits), Signal(bits), Signal(PLACE_BITS), Signal())
    m.d.comb += found.touching.eq(fields.x_stride == fields.x_size)
    for entry in shapes:
        shift = entry.element.bit_length() - 1
        with m.If(fields.memory == entry.memory.id):
            m.d.comb += [
                found.address.eq(fields.dram_base << shift),
                found.stride.eq(fields.x_stride << shift),
                found.row_bytes.eq(fields.x_size << shift),
                found.place.eq(_low(fields.dram_base, entry.share)),
            ]
    return found


def _low(value: Value, count: int) -> Value:
    return value[: count.bit_length() - 1] if count > 1 else Const(0, 1)
