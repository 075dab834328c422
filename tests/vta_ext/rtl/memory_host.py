"""What bridge and machine ask of a memory, in Amaranth's simulator."""

from __future__ import annotations

import random
from typing import Any

from vta_ext.boards.memory import HOST_CYCLES

#: Address and beats.
Burst = tuple[int, int]


class Host:
    """Drives a memory as bridge and machine do, and keeps what must be in it."""

    def __init__(self, ctx: Any, memory: Any, size: int, seed: int) -> None:
        self.ctx, self.memory, self.size = ctx, memory, size
        self.beat = len(memory.write_beats.mask)
        self.random = random.Random(seed)
        self.content = bytearray(size)

    def bursts(self, count: int, begin: int = 0, end: int | None = None) -> list[Burst]:
        """Requests of bytes from ``begin`` to ``end``."""
        beat, end = self.beat, end or self.size
        found = []
        for _ in range(count):
            address = self.random.randrange(begin, end, beat)
            room = min(256 - address % 256, end - address) // beat
            found.append((address, self.random.randint(1, room)))
        return found

    async def fill(self) -> None:
        for word in range(self.size // 4):
            value = self.random.getrandbits(32)
            self.ctx.set(self.memory.host_address, word)
            self.ctx.set(self.memory.host_wdata, value)
            self.ctx.set(self.memory.host_write, 1)
            await self.ctx.tick()
            self.content[4 * word : 4 * word + 4] = value.to_bytes(4, "little")
        self.ctx.set(self.memory.host_write, 0)
        await self.ctx.tick()

    async def check(self) -> None:
        found, last = bytearray(), self.size // 4 - 1
        for cycle in range(1, self.size // 4 + HOST_CYCLES):
            self.ctx.set(self.memory.host_address, min(cycle - 1, last))
            await self.ctx.tick()
            if cycle >= HOST_CYCLES:
                found += self.ctx.get(self.memory.host_rdata).to_bytes(4, "little")
        assert found == self.content

    async def read(self, bursts: list[Burst], chance: float) -> int:
        """All beats in order; cycles that they took."""
        ctx, port, beats = self.ctx, self.memory.read_requests, self.memory.read_beats
        beat, waiting, found, cycles = self.beat, list(bursts), [], 0
        expected = [
            (int.from_bytes(self.content[at : at + beat], "little"), at == first + (n - 1) * beat)
            for first, n in bursts
            for at in range(first, first + n * beat, beat)
        ]
        while len(found) < len(expected):
            ctx.set(port.valid, bool(waiting))
            if waiting:
                ctx.set(port.address, waiting[0][0])
                ctx.set(port.beats, waiting[0][1])
            ctx.set(beats.ready, self.random.random() < chance)
            if waiting and ctx.get(port.ready):
                waiting.pop(0)
            if ctx.get(beats.valid) and ctx.get(beats.ready):
                found.append((ctx.get(beats.data), bool(ctx.get(beats.last))))
            await ctx.tick()
            cycles += 1
        ctx.set(port.valid, 0)
        assert found == expected
        return cycles

    async def write(self, bursts: list[Burst], chance: float) -> None:
        ctx, port, beats = self.ctx, self.memory.write_requests, self.memory.write_beats
        beat, waiting, written = self.beat, list(bursts), 0
        queue = [(at, n, i) for at, n in bursts for i in range(n)]
        words: Any = None
        while written < len(bursts):
            ctx.set(port.valid, bool(waiting))
            if waiting:
                ctx.set(port.address, waiting[0][0])
                ctx.set(port.beats, waiting[0][1])
            if words is None and queue and self.random.random() < chance:
                words = (self.random.getrandbits(8 * beat), self.random.getrandbits(beat))
                ctx.set(beats.data, words[0])
                ctx.set(beats.mask, words[1])
                ctx.set(beats.last, queue[0][2] == queue[0][1] - 1)
            ctx.set(beats.valid, words is not None)
            if waiting and ctx.get(port.ready):
                waiting.pop(0)
            if words is not None and ctx.get(beats.ready):
                at, _, number = queue.pop(0)
                data = words[0].to_bytes(beat, "little")
                for lane, place in enumerate(range(at + number * beat, at + (number + 1) * beat)):
                    if words[1] >> lane & 1 and place < self.size:
                        self.content[place] = data[lane]
                words = None
            await ctx.tick()
            written += ctx.get(self.memory.written)
        ctx.set(beats.valid, 0)
