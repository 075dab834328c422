"""PYNQ's names as the driver uses them, over a machine and a memory of this process.

The processor's view of a buffer and the machine's are apart, as behind a cache that writes nothing
back by itself: a driver that forgets to flush or to invalidate computes with stale bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from vta_ext.boards.pynq_driver import CELL
from vta_ext.config import Config
from vta_ext.isa.codec import codec
from vta_ext.rtl.map import COUNTERS, IDENTITY, Register
from vta_ext.sim.functional import FunctionalSimulator

#: Where the registers are, and where contiguous memory begins.
REGISTERS = 0x43C0_0000
MEMORY = 1 << 20


class Machine(Protocol):
    """What lies behind the registers, by their numbers."""

    def read(self, register: int) -> int: ...
    def write(self, register: int, value: int) -> None: ...
    def reset(self) -> None: ...


class FunctionalMachine:
    """The functional simulator behind registers; a run takes some looks at it.

    ``stuck``: it does not end. ``refused``: an access to memory fails. ``meanwhile``: done once, at
    the second look. ``pace``: cycles between two looks; ``wraps``: passages of their counter's end.
    """

    def __init__(self, config: Config, memory: NDArray[np.uint8]) -> None:
        self.config, self.memory = config, memory
        self.stuck = self.refused = False
        self.meanwhile: Callable[[], object] | None = None
        self.resets = 0
        self.words: dict[int, int] = {}
        self.looks, self.pace, self.wraps = 0, 7, 0

    def read(self, register: int) -> int:
        if register == Register.CONTROL and self.looks == 2 and self.meanwhile is not None:
            todo, self.meanwhile = self.meanwhile, None
            todo()
        if register == Register.CONTROL and self.looks:
            self.looks -= not self.stuck
            cycles = self.words.get(Register.CYCLES, 0) + self.pace
            self.wraps += cycles >> 32
            self.words[Register.CYCLES] = cycles % (1 << 32)
            return 1
        identity = int(self.config.hash, 16)
        fixed = {
            Register.IDENTITY: IDENTITY,
            Register.HASH_LOW: identity & 0xFFFFFFFF,
            Register.HASH_HIGH: identity >> 32,
            Register.CONTROL: self.refused << 1,
        }
        return fixed.get(register, self.words.get(register, 0))

    def write(self, register: int, value: int) -> None:
        self.words[register] = value
        if register == Register.CONTROL and value & 1:
            self.words |= {Register.CYCLES + number: number for number in range(len(COUNTERS))}
            self.looks = 3
            if not self.stuck:
                self._run()

    def _run(self) -> None:
        arena, first = self.words[Register.ARENA], self.words[Register.INSTRUCTIONS]
        end = first + 16 * self.words[Register.COUNT]
        instructions = codec(self.config).decode_all(self.memory[first:end].tobytes())
        simulator = FunctionalSimulator(self.config, 64)
        # The same bytes, so that what the machine stores is in memory.
        simulator.machine.dram = self.memory[arena:first]
        simulator.run(instructions)

    def reset(self) -> None:
        self.looks, self.stuck, self.words = 0, False, {}
        self.resets += 1


class Buffer(np.ndarray):
    """``pynq.buffer.PynqBuffer``: bytes as the processor sees them, and where they are."""

    memory: NDArray[np.uint8]
    device_address: int

    def flush(self) -> None:
        self.memory[self.device_address :][: self.size] = self

    def invalidate(self) -> None:
        self[:] = self.memory[self.device_address :][: self.size]


def install(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, memory: NDArray[np.uint8], cell: str = CELL
) -> ModuleType:
    """Make ``import pynq`` find a board with that machine; memory is given out but once."""
    place = MEMORY

    def allocate(shape: tuple[int, ...], dtype: str) -> Buffer:
        nonlocal place
        assert dtype == "u1"
        first, place = place, -(-(place + shape[0]) // 4096) * 4096
        if place > memory.size:
            raise MemoryError("no CMA left")
        found = np.full(shape, 0xAA, np.uint8).view(Buffer)
        found.memory, found.device_address = memory, first
        return found

    class Overlay:
        def __init__(self, bitfile_name: str) -> None:
            self.ip_dict: dict[str, Any] = {cell: {"phys_addr": REGISTERS, "addr_range": 4096}}
            self.download()

        def download(self) -> None:
            machine.reset()

    class MMIO:
        def __init__(self, base_addr: int, length: int) -> None:
            assert (base_addr, length) == (REGISTERS, 4096)

        def read(self, offset: int = 0) -> int:
            assert offset % 4 == 0
            return machine.read(offset // 4)

        def write(self, offset: int, data: int) -> None:
            assert offset % 4 == 0 and 0 <= data < 1 << 32
            machine.write(offset // 4, data)

    module = ModuleType("pynq")
    for name, value in (("allocate", allocate), ("Overlay", Overlay), ("MMIO", MMIO)):
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "pynq", module)
    return module
