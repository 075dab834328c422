"""Places in a board's memory."""

from __future__ import annotations

import threading

from tvm_shiftadd.errors import DeviceError


class Places:
    """Gives out pieces of ``size`` bytes, each at a multiple of ``alignment``; for all threads."""

    def __init__(self, size: int, alignment: int) -> None:
        self._size, self._alignment = size, alignment
        self._taken: dict[int, int] = {}
        self._lock = threading.RLock()

    def take(self, size: int) -> int:
        """The address of ``size`` bytes that are free; DeviceError where there are none."""
        with self._lock:
            taken = sorted(self._taken.items())
            address = 0
            for start, end in taken:
                if address + size <= start:
                    break
                address = -(-end // self._alignment) * self._alignment
            if address + size > self._size:
                used = sum(end - start for start, end in taken)
                raise DeviceError(
                    f"the program needs {size} bytes of the board's memory, which has {self._size} "
                    f"and {used} of them in use; compile a smaller network, or for another board"
                )
            self._taken[address] = address + size
            return address

    def give(self, address: int) -> None:
        """Take a piece back."""
        with self._lock:
            del self._taken[address]
