"""The C runtime, compiled here and called from Python, with boards in Python."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vta_ext import bare
from vta_ext.bare.image import Image
from vta_ext.config import Config
from vta_ext.isa.codec import INSTRUCTION_BYTES
from vta_ext.rtl.map import FAILED_BIT, IDENTITY, Register
from vta_ext.sim.functional import FunctionalSimulator

FOLDER = Path(bare.__file__).parent
SOURCES = tuple(sorted(FOLDER.glob("shiftadd*.c")))
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")

Floats = NDArray[np.float32]


def compiled(target: Path, sources: Sequence[Path], *flags: str) -> Path:
    """A program or library of C sources, strictly; skipped where there is no compiler."""
    done = compiling(target, sources, *flags)
    assert done.returncode == 0, done.stderr
    return target


def compiling(
    target: Path, sources: Sequence[Path], *flags: str
) -> subprocess.CompletedProcess[str]:
    """The same, which may fail."""
    compiler = tool("gcc", "clang")
    command = [compiler, *STRICT, "-I", str(FOLDER), *map(str, sources), "-o", str(target), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def tool(*names: str) -> str:
    """The first of these programs that is installed; skipped where none is."""
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip(f"needs {' or '.join(names)}")


class CBoard(ctypes.Structure):
    READ = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)
    WRITE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
    BARRIER = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    )
    CLOCK = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p)
    _fields_ = (
        ("context", ctypes.c_void_p),
        ("read", READ),
        ("write", WRITE),
        ("barrier", BARRIER),
        ("clock", CLOCK),
    )


class CNetwork(ctypes.Structure):
    _fields_ = (
        ("board", ctypes.c_void_p),
        ("image", ctypes.c_void_p),
        ("arena", ctypes.c_void_p),
        ("address", ctypes.c_uint32),
    )


class CTensor(ctypes.Structure):
    _fields_ = (
        ("elements", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("exponent", ctypes.c_int32),
    )


@functools.cache
def library() -> Any:
    """The runtime as a library, which stops at undefined behaviour.

    By a trap: the sanitizer's own library may be missing, and prints where nobody reads.
    """
    folder = Path(tempfile.mkdtemp(prefix="tvm-shiftadd-bare-"))
    checks = ("-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")
    path = compiled(folder / "shiftadd.so", SOURCES, "-O1", "-fPIC", "-shared", *checks)
    found = ctypes.CDLL(str(path))
    shutil.rmtree(folder)
    found.shiftadd_status_name.restype = ctypes.c_char_p
    found.shiftadd_status_meaning.restype = ctypes.c_char_p
    found.shiftadd_quantize.argtypes = (ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint32)
    found.shiftadd_dequantize.argtypes = (ctypes.c_int32, ctypes.c_int32)
    found.shiftadd_dequantize.restype = ctypes.c_uint32
    return found


class Board:
    """Registers in Python and an arena; the machine is the functional simulator.

    ``ticks``: what the clock goes on with each look. ``stuck``: a launch never ends; ``refused``:
    it ends, but memory has refused an access.
    """

    ADDRESS = 0x4000

    def __init__(self, config: Config, arena_bytes: int = 1 << 20) -> None:
        self.config, self.ticks = config, 1
        self.stuck = self.refused = False
        self.arena = np.full(arena_bytes, 0xEE, np.uint8)
        self.barriers: list[tuple[int, int, int]] = []
        self.registers = {
            Register.IDENTITY: IDENTITY,
            Register.HASH_LOW: int(config.hash, 16) & 0xFFFFFFFF,
            Register.HASH_HIGH: int(config.hash, 16) >> 32,
        }
        self._now = 0
        # ctypes keeps no reference to functions.
        self.c = CBoard(
            None,
            CBoard.READ(lambda _, number: self.registers.get(number, 0)),
            CBoard.WRITE(self._write),
            CBoard.BARRIER(self._barrier),
            CBoard.CLOCK(self._clock),
        )

    def _clock(self, _context: Any) -> int:
        self._now += self.ticks
        return self._now & 0xFFFFFFFF

    def _barrier(self, _context: Any, start: int, size: int, to_machine: int) -> None:
        self.barriers.append((start - self.arena.ctypes.data, size, to_machine))

    def _write(self, _context: Any, number: int, value: int) -> None:
        self.registers[number] = value
        if number == Register.CONTROL and not self.stuck:
            self._launch()
            self.registers[number] = int(self.refused) << FAILED_BIT

    def _launch(self) -> None:
        assert self.registers[Register.ARENA] == self.ADDRESS
        simulator = FunctionalSimulator(self.config, self.arena.nbytes)
        simulator.write(0, self.arena.tobytes())
        first = self.registers[Register.INSTRUCTIONS] - self.ADDRESS
        size = self.registers[Register.COUNT] * INSTRUCTION_BYTES
        simulator.run_bytes(self.arena[first : first + size].tobytes())
        self.arena[:] = np.frombuffer(simulator.read(0, self.arena.nbytes), np.uint8)


class Runtime:
    """A network that the C runtime has opened on a board; ``status`` is the last call's."""

    def __init__(self, image: bytes, board: Board) -> None:
        self.board, self._image = board, ctypes.create_string_buffer(image, len(image))
        self.network = CNetwork()
        arena = ctypes.c_void_p(board.arena.ctypes.data)
        self.status = name(
            library().shiftadd_open(
                ctypes.byref(self.network),
                ctypes.byref(board.c),
                self._image,
                ctypes.c_size_t(len(image)),
                arena,
                ctypes.c_size_t(board.arena.nbytes),
                ctypes.c_uint32(board.ADDRESS),
            )
        )

    def call(self, function: str, *arguments: Any) -> str:
        """The status of a call about the network."""
        found: Callable[..., int] = getattr(library(), f"shiftadd_{function}")
        return name(found(ctypes.byref(self.network), *arguments))

    def write(self, number: int, values: Floats, image: int = 0) -> str:
        return self._move("write", number, image, np.ascontiguousarray(values, np.float32))

    def write_stored(self, number: int, values: NDArray[Any], image: int = 0) -> str:
        return self._move("write_stored", number, image, np.ascontiguousarray(values))

    def read(self, number: int, elements: int, image: int = 0) -> Floats:
        """An output; it must be readable."""
        values = np.full(elements, np.nan, np.float32)
        assert self._move("read", number, image, values) == "OK"
        return values

    def read_stored(self, number: int, elements: int, image: int = 0) -> NDArray[np.int32]:
        values = np.full(elements, -1, np.int32)
        assert self._move("read_stored", number, image, values) == "OK"
        return values

    def _move(self, function: str, number: int, image: int, values: NDArray[Any]) -> str:
        data = ctypes.c_void_p(values.ctypes.data)
        size = ctypes.c_size_t(values.size)
        return self.call(function, ctypes.c_uint32(number), ctypes.c_uint32(image), data, size)

    def run(self, limit: int = 1000) -> str:
        return self.call("run", ctypes.c_uint32(limit))


def name(status: int) -> str:
    found: bytes = library().shiftadd_status_name(status)
    return found.decode()


def opened(image: Image, board: Board) -> Runtime:
    """A network that must open."""
    found = Runtime(image.to_bytes(), board)
    assert found.status == "OK"
    return found
