"""A board in software: the far side of the serial link, and a line to it that can be disturbed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vta_ext.config import Config
from vta_ext.isa.codec import INSTRUCTION_BYTES, codec
from vta_ext.link.frames import (
    ANSWER,
    BAUD,
    MAX_WORDS,
    PROTOCOL,
    Decoder,
    Frame,
    Opcode,
    Status,
    encode,
)
from vta_ext.rtl.map import IDENTITY, NUMBER_BITS, Register
from vta_ext.sim.functional import FunctionalSimulator

#: What one transfer, of a write or of an answer, becomes.
Fault = Callable[[bytes], bytes]


class SoftwareBoard:
    """Memory, registers and a machine that has finished at once, unless it ``hangs``."""

    def __init__(self, config: Config, memory_bytes: int = 1 << 16, protocol: int = PROTOCOL):
        self.config, self.memory = config, bytearray(memory_bytes)
        self.registers = [0] * (1 << NUMBER_BITS)
        self.registers[Register.IDENTITY] = IDENTITY
        self.registers[Register.HASH_LOW] = int(config.hash, 16) & 0xFFFFFFFF
        self.registers[Register.HASH_HIGH] = int(config.hash, 16) >> 32
        self.runs, self.resets, self.hangs, self.pace = 0, 0, False, 1000
        #: Commands that changed something, as they were done.
        self.done: list[Frame] = []
        self._protocol, self._decoder = protocol, Decoder()
        self._last: tuple[int, Status] | None = None

    def receive(self, data: bytes) -> bytes:
        """What it answers to bytes."""
        return b"".join(encode(self._answer(frame)) for frame in self._decoder.feed(data))

    def _answer(self, frame: Frame) -> Frame:
        changes = frame.opcode & 1
        if changes and self._last is not None and self._last[0] == frame.sequence:
            status = self._last[1]
        else:
            status = self._judge(frame)
            self._last = frame.sequence, status
            if changes and status == Status.DONE:
                self._change(frame)
        payload = b"" if changes or status else self._read(frame)
        return Frame(frame.sequence, frame.opcode | ANSWER, len(payload) // 4, status, payload)

    def _space(self, opcode: int) -> bytes:
        """What the addresses of an opcode count."""
        if opcode in (Opcode.IDENTIFY, Opcode.RESET):
            clock = 80_000_000
            words = (*self.registers[:3], self._protocol, clock, len(self.memory) // 4)
            return b"".join(word.to_bytes(4, "little") for word in words)
        if opcode in (Opcode.READ_REGISTERS, Opcode.WRITE_REGISTERS):
            if self.hangs and self.registers[Register.CONTROL]:
                self.registers[Register.CYCLES] = (
                    self.registers[Register.CYCLES] + self.pace
                ) % 2**32
            return b"".join(word.to_bytes(4, "little") for word in self.registers)
        return bytes(self.memory)

    def _judge(self, frame: Frame) -> Status:
        if frame.opcode > max(Opcode):
            return Status.UNKNOWN
        size = len(self._space(frame.opcode)) // 4
        if frame.address + frame.count > size or frame.count > MAX_WORDS:
            return Status.OUTSIDE
        memory = frame.opcode in (Opcode.READ_MEMORY, Opcode.WRITE_MEMORY)
        return Status.RUNNING if memory and self.registers[Register.CONTROL] else Status.DONE

    def _read(self, frame: Frame) -> bytes:
        return self._space(frame.opcode)[4 * frame.address :][: 4 * frame.count]

    def _change(self, frame: Frame) -> None:
        self.done.append(frame)
        if frame.opcode == Opcode.RESET:
            self.resets += 1
            self.registers[Register.CONTROL :] = [0] * (len(self.registers) - Register.CONTROL)
        elif frame.opcode == Opcode.WRITE_MEMORY:
            self.memory[4 * frame.address :][: len(frame.payload)] = b""
            end = 4 * frame.address + len(frame.payload)
            self.memory[4 * frame.address : end] = frame.payload
        else:
            for n in range(frame.count):
                value = int.from_bytes(frame.payload[4 * n : 4 * n + 4], "little")
                self.registers[frame.address + n] = value
                if frame.address + n == Register.CONTROL and value & 1:
                    self._run()

    def _run(self) -> None:
        """The machine: its programs' instructions are in memory, as the registers say."""
        self.runs += 1
        self.registers[Register.CYCLES] = 0
        if self.hangs:
            return
        arena, at, count = self.registers[Register.ARENA : Register.COUNT + 1]
        code = bytes(self.memory[at : at + count * INSTRUCTION_BYTES])
        simulator = FunctionalSimulator(self.config, at - arena)
        simulator.write(0, bytes(self.memory[arena:at]))
        simulator.run(codec(self.config).decode_all(code))
        self.memory[arena:at] = simulator.read(0, at - arena)
        self.registers[Register.CONTROL] = 0
        self.registers[Register.CYCLES] = 1234


@dataclass
class Line:
    """A stream to a board, with a clock of its own; each transfer meets the next of ``faults``.

    delays: seconds by which answers are late, the next one each. Bytes take their time.
    """

    board: SoftwareBoard
    faults: Iterable[Fault] = ()
    delays: Iterable[float] = ()
    now: float = 0.0
    sent: int = 0
    _coming: deque[tuple[float, bytes]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.faults, self.delays = iter(self.faults), iter(self.delays)

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def write(self, data: bytes) -> None:
        """See Stream."""
        self.sent += 1
        self.now += 10 * len(data) / BAUD
        answer = self._disturbed(self.board.receive(self._disturbed(data)))
        at = self.now + next(self.delays, 0.0) + 10 * len(answer) / BAUD
        if self._coming:  # a line keeps the order
            at = max(at, self._coming[-1][0])
        self._coming.append((at, answer))

    def read(self, seconds: float) -> bytes:
        """See Stream."""
        if self._coming and self._coming[0][0] <= self.now + seconds:
            at, data = self._coming.popleft()
            self.now = max(self.now, at)
            return data
        self.now += seconds
        return b""

    def _disturbed(self, data: bytes) -> bytes:
        return next(self.faults, bytes)(data)
