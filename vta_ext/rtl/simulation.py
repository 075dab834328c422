"""The Verilated machine: its registers and its memory, as a driver of real hardware sees them."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import DeviceError, InputError
from vta_ext.config import Config
from vta_ext.isa.schema import Module
from vta_ext.rtl.build import build
from vta_ext.rtl.map import COUNTERS, IDENTITY, READ_REGISTERS, Register

#: Cycles between two looks at the clock.
_SLICE: Final = 1 << 16
#: Modules as the harness numbers them.
UNITS: Final = (Module.LOAD, Module.COMPUTE, Module.STORE)
#: Buffers but the micro-ops, as the harness numbers them.
_BUFFERS: Final = ("inp", "wgt", "acc", "out")


@dataclass(frozen=True)
class Memory:
    """How the memory behaves. Raises InputError for a chance that is not below 1.

    latency: cycles from a module's request to its first beat, of which the machine's own registers
    take READ_REGISTERS and the memory behind it the rest. stalls: the chance that a handshake is
    refused in a cycle, of requests, beats of reads and beats of writes, drawn from ``seed``.
    """

    latency: int = 100
    stalls: tuple[float, float, float] = (0.0, 0.0, 0.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(0 <= chance < 1 for chance in self.stalls) or self.latency < 0:
            raise InputError(
                f"stalls must be chances from 0 to below 1 and latency 0 or more, not "
                f"{self.stalls} and {self.latency}"
            )


class _Event(ctypes.Structure):
    _fields_ = (("cycle", ctypes.c_uint64), ("unit", ctypes.c_uint32), ("ends", ctypes.c_uint32))


class _View(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("bytes", ctypes.c_uint64))


def _library(config: Config, memory_bits: int) -> Any:
    library = ctypes.CDLL(str(build(config, memory_bits)))
    handle, word, long = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    signatures: dict[str, tuple[Any, ...]] = {
        "new": (handle,),
        "free": (None, handle),
        "reset": (None, handle),
        "memory": (None, handle, handle, long),
        "timing": (None, handle, word, word, word, word, long),
        "write": (None, handle, word, word),
        "read": (word, handle, word),
        "begin": (None, handle, ctypes.c_int),
        "run": (ctypes.c_int64, handle, long),
        "outside": (long, handle),
        "events": (long, handle, ctypes.POINTER(ctypes.POINTER(_Event))),
        "buffer": (ctypes.c_int, handle, ctypes.c_int, ctypes.POINTER(_View)),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, f"simulation_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class Simulation:
    """One Verilated machine, its registers and its memory.

    Raises DependencyError where a tool to build it is missing, and DeviceError where the library
    is not the machine of ``config``.
    """

    def __init__(self, config: Config, memory_bits: int = 64, memory: Memory | None = None) -> None:
        self.config, self.memory_bits = config, memory_bits
        self._library = _library(config, memory_bits)
        self._handle: Any = self._library.simulation_new()
        self._dram: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self.set_memory(memory or Memory())
        self._check_identity()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.simulation_free(self._handle)
            self._handle = None

    def _check_identity(self) -> None:
        found = self.read(Register.HASH_HIGH) << 32 | self.read(Register.HASH_LOW)
        if self.read(Register.IDENTITY) != IDENTITY or found != int(self.config.hash, 16):
            raise DeviceError(
                f"the device says that it is configuration {found:016x}, expected "
                f"{self.config.hash}; build it again"
            )

    def set_memory(self, memory: Memory) -> None:
        """Let the memory behave so from now on."""
        chances = [round(256 * chance) for chance in memory.stalls]
        latency = max(memory.latency - READ_REGISTERS, 0)
        self._library.simulation_timing(self._handle, latency, *chances, memory.seed)

    def attach(self, dram: NDArray[np.uint8]) -> None:
        """Use ``dram`` as memory; it is read and written in place."""
        self._dram = dram
        self._library.simulation_memory(self._handle, dram.ctypes.data, dram.nbytes)

    def write(self, register: int, value: int) -> None:
        """Write a register."""
        self._library.simulation_write(self._handle, register, value)

    def read(self, register: int) -> int:
        """Read a register."""
        return int(self._library.simulation_read(self._handle, register))

    def reset(self) -> None:
        """Reset control and queues; buffers keep what they hold."""
        self._library.simulation_reset(self._handle)

    def run(
        self,
        instructions: int,
        count: int,
        most: int,
        limit: float | None = None,
        trace: bool = False,
    ) -> int:
        """Run ``count`` instructions from byte ``instructions``; the cycles it took.

        Raises DeviceError after ``most`` cycles or ``limit`` seconds, and for an access outside
        memory; the machine is reset then. ``trace``: note when instructions start and end.
        """
        self.write(Register.ARENA, 0)
        self.write(Register.INSTRUCTIONS, instructions)
        self.write(Register.COUNT, count)
        before = self._library.simulation_outside(self._handle)
        self.write(Register.CONTROL, 1)
        self._library.simulation_begin(self._handle, trace)
        problem = ""
        deadline = None if limit is None else time.monotonic() + limit
        while (cycles := int(self._library.simulation_run(self._handle, min(most, _SLICE)))) < 0:
            most -= _SLICE
            if most <= 0:
                problem = "did not finish in many times the cycles it needs; the checker says why"
            elif deadline is not None and time.monotonic() > deadline:
                problem = f"did not finish within {limit:g} s; allow more time"
            if problem:
                break
        outside = self._library.simulation_outside(self._handle) - before
        if outside:
            problem = f"made {outside} accesses outside its memory; the checker says which"
        if problem:
            self.reset()
            raise DeviceError(f"the machine {problem}")
        return cycles

    def counters(self) -> dict[str, int]:
        """The counter registers, by name."""
        return {
            name: self.read(Register.CYCLES + number) for number, (name, _) in enumerate(COUNTERS)
        }

    def events(self) -> list[tuple[int, Module, bool]]:
        """Of a traced run: cycle, module, and whether an instruction ends there (or begins)."""
        array = ctypes.POINTER(_Event)()
        count = self._library.simulation_events(self._handle, ctypes.byref(array))
        return [(e.cycle, UNITS[e.unit], bool(e.ends)) for e in array[:count]]

    def _view(self, number: int, depth: int) -> NDArray[np.uint8]:
        """A buffer's bytes as the simulation keeps them, ``[depth, bytes]``: a view."""
        view = _View()
        self._library.simulation_buffer(self._handle, number, ctypes.byref(view))
        assert view.data is not None
        kind = ctypes.c_uint8 * view.bytes
        return np.ctypeslib.as_array(kind.from_address(view.data)).reshape(depth, -1)

    def _banks(self, name: str) -> list[NDArray[np.uint8]]:
        """The parts of a buffer, whose entries take turns."""
        if name != "uop":
            depth: int = getattr(self.config, f"{'acc' if name == 'out' else name}_depth")
            return [self._view(_BUFFERS.index(name), depth)]
        banks = max(self.memory_bits // 32, 1)
        first = len(_BUFFERS)
        return [self._view(first + n, self.config.uop_depth // banks) for n in range(banks)]

    def buffer(self, name: str) -> NDArray[np.uint8]:
        """The contents of buffer uop, inp, wgt, acc or out: ``[entries, bytes]``, a copy.

        An entry's bits are in its first bytes, the lowest first.
        """
        banks = self._banks(name)
        return np.stack(banks, axis=1).reshape(-1, banks[0].shape[1])

    def set_buffer(self, name: str, entries: NDArray[np.uint8]) -> None:
        """Give a buffer contents of ``[entries, bytes]``, fewer bytes than it keeps or as many."""
        banks = self._banks(name)
        for number, bank in enumerate(banks):
            bank[:, : entries.shape[1]] = entries[number :: len(banks)]
