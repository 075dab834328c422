"""The timing model: how many cycles a program takes, and what every module waits for.

Fetch hands instructions to load, compute and store, each with a queue in front; tokens order
them; all share one memory port. Load and store keep requests of several instructions in flight
and end them in order; compute runs one instruction at a time. Nothing is computed: what depends
on micro-ops is known from the program.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from tvm_shiftadd.errors import InputError, ProgramError
from vta_ext.checks.order import CHAIN, NUMBER, Queue, queues_of
from vta_ext.isa import access
from vta_ext.isa.codec import INSTRUCTION_BYTES
from vta_ext.isa.instruction import Instruction
from vta_ext.isa.schema import Module
from vta_ext.micro_op_buffer import MicroOpBuffer
from vta_ext.program import Program
from vta_ext.sim.events import Clock, Event, Process
from vta_ext.sim.report import Step, TimingReport, Wait

#: Instructions that fetch asks for at once, and keeps ready besides those.
_FETCHED: Final = 16


@dataclass(frozen=True)
class TimingParameters:
    """What the model takes from the memory and the pipelines. Raises InputError for nonsense."""

    #: Bits of the memory port, which reads and writes share: one beat a cycle.
    memory_bits: int = 64
    #: Cycles from a request to its first beat.
    memory_latency: int = 100
    #: The most bytes one request asks for.
    burst_bytes: int = 256
    #: Bytes and requests that load and store may each have in flight.
    buffer_bytes: int = 2048
    outstanding: int = 32
    #: Cycles from the start of a GEMM or ALU instruction to its first micro-op.
    start_cycles: int = 4
    #: Cycles from the last micro-op of an ALU instruction to its last write. Of a GEMM it is one
    #: for each level of a row's tree, the configuration's ``log_block``.
    alu_cycles: int = 5

    def __post_init__(self) -> None:
        low = {"memory_latency": 0, "start_cycles": 0, "alu_cycles": 0}
        for name, value in vars(self).items():
            if type(value) is not int or not low.get(name, 1) <= value <= 1 << 30:
                raise InputError(
                    f"{name} must be a whole number from {low.get(name, 1)} up, not {value!r}"
                )
        if self.memory_bits % 8 or self.burst_bytes > self.buffer_bytes:
            raise InputError(
                "memory_bits must be whole bytes and burst_bytes at most buffer_bytes, not "
                f"{self.memory_bits}, {self.burst_bytes} and {self.buffer_bytes}"
            )


@dataclass
class _Engine:
    """One module: its queue, what it has in flight, and where its time went."""

    queue: deque[int] = field(default_factory=deque)
    arrived: Event = field(default_factory=Event)
    taken: Event = field(default_factory=Event)
    #: End and size of requests in flight, in order.
    flight: deque[tuple[int, int]] = field(default_factory=deque)
    flying: int = 0
    #: End of the last instruction, which the next one cannot undercut.
    last_end: int = 0
    #: What the instruction at hand has waited for before its start.
    waits: list[Wait] = field(default_factory=list)

    def waited(self, cause: str, cycles: int) -> None:
        if cycles:
            self.waits.append((cause, cycles))


class _Timing:
    """One run."""

    def __init__(self, program: Program, parameters: TimingParameters) -> None:
        self.program, self.p, self.config = program, parameters, program.config
        self.clock = Clock()
        self.engines = [_Engine() for _ in CHAIN]
        self.tokens: dict[Queue, int] = dict.fromkeys(((0, 1), (1, 0), (1, 2), (2, 1)), 0)
        self.token_moved = Event()
        self.bus_free = 0
        self.bus_busy = 0
        self.steps: list[Step] = []
        self.bytes: dict[str, int] = {}
        self.kernels = MicroOpBuffer(program)
        self.finished: int | None = None

    def run(self) -> TimingReport:
        self.clock.start(self._fetch())
        self.clock.start(self._mover(NUMBER[Module.LOAD]))
        self.clock.start(self._compute())
        self.clock.start(self._mover(NUMBER[Module.STORE]))
        self.clock.run()
        if self.finished is None:
            stuck = [
                f"{CHAIN[n].value} at instruction {e.queue[0]}"
                for n, e in enumerate(self.engines)
                if e.queue
            ]
            raise ProgramError(
                f"the program never ends: {', '.join(stuck) or 'fetch'} waits for a token; the "
                "checker says which"
            )
        return TimingReport(
            program=self.program,
            cycles=self.finished,
            steps=tuple(sorted(self.steps, key=lambda step: (step.start, step.position))),
            bytes=dict(self.bytes),
            bus_busy=self.bus_busy,
            memory_bits=self.p.memory_bits,
        )

    # The memory port.

    def _request(self, size: int) -> int:
        """Ask for ``size`` bytes now; the cycle at which the last beat is through."""
        beats = -(-size * 8 // self.p.memory_bits)
        start = max(self.clock.now + self.p.memory_latency, self.bus_free)
        self.bus_free = start + beats
        self.bus_busy += beats
        return self.bus_free

    def _requests(self, move: access.Transfer) -> Iterator[int]:
        """Sizes of the requests of a transfer, which cross no multiple of ``burst_bytes``.

        Rows without gaps between them are one piece.
        """
        row, burst = move.columns * move.element, self.p.burst_bytes
        pieces, size = (move.rows, row) if move.stride_bytes != row else (1, move.rows * row)
        for piece in range(pieces):
            start = move.dram_byte + piece * move.stride_bytes
            end = start + size
            while start < end:
                following = min(start - start % burst + burst, end)
                yield following - start
                start = following

    def _transfer(self, engine: _Engine, move: access.Transfer) -> Process:
        """Issue the requests of ``move``, one a cycle while there is room; sets ``last_end``.

        The first one follows the instruction's start by a cycle.
        """
        yield self.clock.now + 1
        before, first = engine.last_end, self.clock.now + self.p.memory_latency
        for size in self._requests(move):
            while engine.flight and (
                engine.flying + size > self.p.buffer_bytes
                or len(engine.flight) >= self.p.outstanding
                or engine.flight[0][0] <= self.clock.now
            ):
                end, done = engine.flight.popleft()
                engine.flying -= done
                if end > self.clock.now:
                    yield end
            end = self._request(size)
            engine.flight.append((end, size))
            engine.flying += size
            engine.last_end = max(engine.last_end, end)
            yield self.clock.now + 1
        # The buffer takes a beat a cycle, or an entry of padding; and an instruction's entries come
        # a cycle after those of the one before.
        moved, beat = move.rows * move.columns, self.p.memory_bits // 8
        writes = -(-moved * move.element // beat) + move.entries - moved
        engine.last_end = max(engine.last_end, max(first, before + 1) + writes)
        name = move.memory.name
        self.bytes[name] = self.bytes.get(name, 0) + move.moved_bytes

    # Modules.

    def _has_room(self, engine: _Engine) -> bool:
        return len(engine.queue) < self.config.queue_depth

    def _has_token(self, queue: Queue) -> bool:
        # A module at an end of the chain waits for ever for a neighbour that it does not have.
        return self.tokens.get(queue, 0) > 0

    def _takes_token(self, queue: Queue) -> bool:
        return self.tokens.get(queue, self.config.queue_depth) < self.config.queue_depth

    def _fetch(self) -> Process:
        """Read instructions ahead and hand them out in order, one a cycle."""
        count = len(self.program.instructions)
        self.bytes["instructions"] = count * INSTRUCTION_BYTES
        ends = [self._request(min(_FETCHED, count) * INSTRUCTION_BYTES)]
        for start in range(0, count, _FETCHED):
            ahead = min(_FETCHED, count - start - _FETCHED)
            if ahead > 0:
                ends.append(self._request(ahead * INSTRUCTION_BYTES))
            yield ends[start // _FETCHED]
            for position in range(start, min(start + _FETCHED, count)):
                engine = self.engines[NUMBER[self.program.instructions[position].module]]
                yield from self.clock.until(engine.taken, partial(self._has_room, engine))
                engine.queue.append(position)
                self.clock.notify(engine.arrived)
                yield self.clock.now + 1

    def _next(self, number: int) -> Process:
        """Wait until the first instruction of the queue may start: it is there, and its tokens."""
        engine = self.engines[number]
        engine.waits = []
        since = self.clock.now
        yield from self.clock.until(engine.arrived, lambda: bool(engine.queue))
        engine.waited("instructions", self.clock.now - since)
        pops, _ = queues_of(self.program.instructions[engine.queue[0]], number)
        for queue in pops:
            since = self.clock.now
            yield from self.clock.until(self.token_moved, partial(self._has_token, queue))
            self.tokens[queue] -= 1
            self.clock.notify(self.token_moved)
            engine.waited(f"token from {CHAIN[queue[0]].value}", self.clock.now - since)

    def _end(
        self, number: int, position: int, start: int, end: int, waits: tuple[Wait, ...]
    ) -> Process:
        """At cycle ``end`` give tokens, as soon as there is room for them."""
        yield end
        _, pushes = queues_of(self.program.instructions[position], number)
        for queue in pushes:
            yield from self.clock.until(self.token_moved, partial(self._takes_token, queue))
            self.tokens[queue] += 1
        if pushes:
            self.clock.notify(self.token_moved)
        self.steps.append(Step(position, CHAIN[number], start, self.clock.now, waits))

    def _mover(self, number: int) -> Process:
        """Load or store: requests go on while earlier instructions are still in flight."""
        engine = self.engines[number]
        while True:
            yield from self._next(number)
            position = engine.queue[0]
            start = self.clock.now
            engine.last_end = max(engine.last_end, start)
            move = access.transfer(self.program.instructions[position], self.config)
            if move is not None:
                access.check_transfer(move, self.config, self.program.dram_bytes)
                if move.memory.name == "uop":
                    self.kernels.load(move)
                yield from self._transfer(engine, move)
            waits = tuple(engine.waits)
            self.clock.start(self._end(number, position, start, engine.last_end, waits))
            engine.queue.popleft()
            self.clock.notify(engine.taken)
            yield self.clock.now + 1

    def _compute(self) -> Process:
        number = NUMBER[Module.COMPUTE]
        engine = self.engines[number]
        while True:
            yield from self._next(number)
            position = engine.queue[0]
            instruction = self.program.instructions[position]
            start = self.clock.now
            if instruction.kind.name == "LOAD":
                yield from self._own_load(engine, instruction)
            else:
                yield start + self._cycles(instruction)
            yield from self._end(number, position, start, self.clock.now, tuple(engine.waits))
            engine.queue.popleft()
            self.clock.notify(engine.taken)
            if instruction.kind.name == "FINISH":
                self.finished = self.clock.now
                return

    def _own_load(self, engine: _Engine, instruction: Instruction) -> Process:
        """A load of micro-ops or accumulators: compute waits for its end."""
        move = access.transfer(instruction, self.config)
        if move is None:
            yield self.clock.now + 1
            return
        access.check_transfer(move, self.config, self.program.dram_bytes)
        engine.last_end = self.clock.now
        yield from self._transfer(engine, move)
        if move.memory.name == "uop":
            self.kernels.load(move)
        yield engine.last_end

    def _cycles(self, instruction: Instruction) -> int:
        """Cycles of a GEMM, ALU or FINISH instruction."""
        if instruction.kind.name == "FINISH":
            return 1
        access.check_micro_op_range(instruction, self.config)
        count = access.micro_op_count(instruction)
        if not count:
            return self.p.start_cycles
        if instruction.kind.mode:
            return self.p.start_cycles + count + self.config.log_block
        return self.p.start_cycles + count + self._extra_reads(instruction) + self.p.alu_cycles

    def _extra_reads(self, instruction: Instruction) -> int:
        """Cycles of an ALU instruction for operands from accumulators, which have one read port.

        An operand is read again only where its index changes.
        """
        source = self.kernels.operands(instruction).get("src")
        if source is None or source.memory != "acc":
            return 0
        index = source.indices((instruction.iter_out, instruction.iter_in))
        changes = 1 + int(np.count_nonzero(np.diff(index)))
        return changes * source.count


def simulate(program: Program, parameters: TimingParameters | None = None) -> TimingReport:
    """Cycles, waits and traffic of ``program``.

    Raises ProgramError where it never ends or leaves a buffer; the checker finds such programs
    and more.
    """
    return _Timing(program, parameters or TimingParameters()).run()
