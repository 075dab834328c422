"""The buffers as loaders write them: widths, enables, banks."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Final, Protocol

from amaranth.hdl import Module, Signal
from amaranth.lib.memory import WritePort

from vta_ext.config import Config
from vta_ext.isa.schema import Memory
from vta_ext.rtl.elements import INPUT_BITS
from vta_ext.rtl.transfer import Shape, shape

#: The buffer that holds a memory's entries.
_BUFFERS: Final = {"code": "wgt", "acc8": "acc"}
_LANE_BITS: Final = {"uop": 8, "wgt": 8, "code": 8, "inp": INPUT_BITS, "acc": 8, "acc8": 32}


@dataclass(frozen=True)
class Buffer:
    """A buffer as loaders write it: entries of ``width`` bits, an enable for each ``grain``.

    One of several ``banks`` has entry e in bank ``e % banks``, so that as many can be written at
    once, wherever they begin; each bank has its own address, and one enable.
    """

    name: str
    address_bits: int
    width: int
    grain: int
    banks: int = 1

    @property
    def grains(self) -> int:
        """Enables of a write port."""
        return self.banks * self.width // self.grain


def buffer_of(memory: Memory) -> str:
    """The name of the buffer that ``memory`` loads into."""
    return _BUFFERS.get(memory.name, memory.name)


def chunk_bits(entry: Shape) -> int:
    """Bits of a buffer's entry that a chunk fills: bytes may become wider."""
    return entry.chunk * _LANE_BITS[entry.memory.name]


def buffers(memories: tuple[Memory, ...], config: Config, beat: int) -> dict[str, Buffer]:
    """The buffers of ``memories``, with grains that every kind of load can fill."""
    widths = {
        "uop": (config.log_uop_depth, 32),
        "inp": (config.log_inp_depth, INPUT_BITS * config.inp_bytes),
        "wgt": (config.log_wgt_depth, 8 * config.wgt_slot_bytes),
        "acc": (config.log_acc_depth, 8 * config.acc_bytes),
    }
    found: dict[str, Buffer] = {}
    for memory in memories:
        name = buffer_of(memory)
        bits = chunk_bits(shape(memory, config, beat))
        before = found[name].grain if name in found else bits
        # Micro-ops come in long runs; two or more of them in each beat.
        banks = shape(memory, config, beat).share if name == "uop" else 1
        found[name] = Buffer(name, *widths[name], gcd(bits, before), banks)
    return found


class Writes(Protocol):
    """Where a loader writes: a memory's port, or those of several banks side by side."""

    addr: Signal
    data: Signal
    en: Signal


class Banks:
    """The write ports of banks as one, with an address, a word and an enable for each."""

    def __init__(self, m: Module, buffer: Buffer, ports: list[WritePort]) -> None:
        count = len(ports)
        self.addr = Signal(count * buffer.address_bits)
        self.data, self.en = Signal(count * buffer.width), Signal(buffer.grains)
        for number, port in enumerate(ports):
            m.d.comb += [
                port.addr.eq(self.addr.word_select(number, buffer.address_bits)),
                port.data.eq(self.data.word_select(number, buffer.width)),
                port.en.eq(self.en.word_select(number, len(port.en))),
            ]
