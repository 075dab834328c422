"""A board's whole system, Verilated, on a pseudo-terminal: a serial port as any other.

python -m vta_ext.boards.simulated ulx3s-85f
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import threading
import tty
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from vta_ext.boards import BOARDS, Board
from vta_ext.rtl.build import Design, library
from vta_ext.rtl.tools import explained

#: Cycles of a bit on the simulated line: the fewest that the receiver can do with.
DIVISOR: Final = 4
#: What a host may take as the rate, so that it waits long enough: a simulation is slower.
RATE: Final = 9600
#: Cycles between two looks at the terminal, and bytes taken from it at once.
_SLICE: Final = 1 << 14
_ROOM: Final = 1 << 16
#: Microseconds after which a board is used.
_AWAKE_US: Final = 250
_HERE: Final = Path(__file__).parent
_SOURCES: Final = (
    *("boards/system.py", "boards/memory.py", "boards/sdram.py", "boards/sdram.hpp"),
    *("link/frames.py", "rtl/bridge.py", "rtl/uart.py"),
)


def _build(board: Board) -> Any:
    def verilog() -> str:
        from amaranth.back import verilog

        from vta_ext.boards.system import System
        from vta_ext.rtl.export import TOP

        return str(verilog.convert(System(board), name=TOP, emit_src=False))

    root = _HERE.parent
    sources = tuple(root / name for name in _SOURCES)
    numbers = (board.memory_bits, board.block_memory, board.sdram, board.clock_mhz, DIVISOR)
    name = "-".join(map(str, ("board", board.config.hash, *numbers)))
    design = Design(name, verilog, _HERE / "system.cpp", sources, _defines(board))
    built = ctypes.CDLL(str(library(design)))
    handle, word, long = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    signatures: dict[str, tuple[Any, ...]] = {
        "new": (handle, word, long),
        "free": (None, handle),
        "run": (long, handle, long, ctypes.c_char_p, long, handle, long),
        "busy": (ctypes.c_int, handle),
        "cycles": (long, handle),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(built, f"board_{name}")
        function.restype, function.argtypes = result, arguments
    return built


def _defines(board: Board) -> tuple[str, ...]:
    """What the SDRAM's model is told of the chip."""
    if not board.sdram:
        return ()
    from vta_ext.boards.sdram import PIN_CYCLES, chip

    found = chip(board.sdram)
    return (f"-DVTA_SDRAM={found.row_bits},{found.column_bits},{PIN_CYCLES}",)


class SimulatedBoard:
    """The system of ``board`` behind the serial port ``port``, a pseudo-terminal; until ``close``.

    Its line is as fast as its clock allows; the terminal takes any rate, from which the host
    reckons how long to wait. It rests while nothing happens. Raises DependencyError where a tool
    to build it is missing, InputError for a board that has no system of its own.
    """

    def __init__(self, board: Board) -> None:
        board = replace(board, baud=board.clock_mhz * 1_000_000 // DIVISOR)
        self._library = _build(board)
        # An SDRAM is awake then.
        cycles = _AWAKE_US * board.clock_mhz if board.sdram else 0
        self._handle: Any = self._library.board_new(DIVISOR, cycles)
        # With its own end of the terminal open, a host may come and go.
        self._line, self._host = os.openpty()
        for end in (self._line, self._host):
            tty.setraw(end)
        os.set_blocking(self._line, False)
        self.port: str = os.ttyname(self._host)
        self._woken, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._serve, name=self.port, daemon=True)
        self._thread.start()

    @property
    def cycles(self) -> int:
        """Cycles so far."""
        return int(self._library.board_cycles(self._handle))

    def close(self) -> None:
        """End it, and its port."""
        os.write(self._waker, b".")
        self._thread.join()
        for end in (self._line, self._host, self._woken, self._waker):
            os.close(end)
        self._library.board_free(self._handle)

    def _serve(self) -> None:
        """Bytes to and from the board, as long as the host sends any or the machine runs."""
        answer = ctypes.create_string_buffer(_ROOM)
        unsent = b""
        while True:
            patience = 0 if self._library.board_busy(self._handle) else None
            writing = [self._line] if unsent else []
            ready, _, _ = select.select([self._line, self._woken], writing, [], patience)
            if self._woken in ready:
                return
            received = os.read(self._line, _ROOM) if self._line in ready else b""
            count = self._library.board_run(
                self._handle, _SLICE, received, len(received), answer, _ROOM
            )
            unsent += answer.raw[:count]
            if unsent:
                try:
                    unsent = unsent[os.write(self._line, unsent) :]
                except BlockingIOError:
                    continue  # the host does not read


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate a board until interrupted, and print its port."""
    parser = argparse.ArgumentParser(description="Simulate a board behind a serial port.")
    parser.add_argument("board", choices=[name for name, board in BOARDS.items() if board.baud])
    given = parser.parse_args(arguments)
    with explained(parser):
        board = SimulatedBoard(BOARDS[given.board])
    print(f"serial:{board.port},{RATE}", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        board.close()


if __name__ == "__main__":
    main()
