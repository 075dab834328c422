"""Tokens: whether every instruction gets to run, and what is surely done when it starts.

The modules load, compute and store run their instructions in order and at the same time; only
tokens order them. Running them greedily in any order ends in the same state, because each queue
has one writer and one reader: where that gets stuck, every timing does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vta_ext.checks.violation import Violation, at
from vta_ext.isa.instruction import Instruction
from vta_ext.isa.schema import Module
from vta_ext.program import Program

#: The modules that tokens order, each next to its neighbours.
CHAIN: Final = (Module.LOAD, Module.COMPUTE, Module.STORE)
NUMBER: Final = {module: number for number, module in enumerate(CHAIN)}

#: A queue: the numbers of the module that fills it and of the one that empties it.
Queue = tuple[int, int]
#: Field of an instruction, and where its queue leads: -1 to the module before, 1 to the one after.
PUSHES: Final = (("push_prev", -1), ("push_next", 1))
POPS: Final = (("pop_prev", -1), ("pop_next", 1))


def queues_of(instruction: Instruction, module: int) -> tuple[list[Queue], list[Queue]]:
    """The queues an instruction of ``module`` pops from and pushes to, missing neighbours too."""
    pops = [(module + step, module) for name, step in POPS if getattr(instruction, name)]
    pushes = [(module, module + step) for name, step in PUSHES if getattr(instruction, name)]
    return pops, pushes


@dataclass(frozen=True)
class Order:
    """What is known of a program's order.

    module, rank: int32 ``[n]``, the module of each instruction and its number there, from 1.
    before: int32 ``[n, 3]``, how many instructions of each module are surely done when it starts.
    """

    module: NDArray[np.int32]
    rank: NDArray[np.int32]
    before: NDArray[np.int32]


@dataclass
class _Module:
    """Instructions that wait for a module, and how much is known to be done when it goes on."""

    waiting: deque[int] = field(default_factory=deque)
    clock: NDArray[np.int32] = field(default_factory=lambda: np.zeros(3, np.int32))


class _Run:
    """A greedy run of a program, without time."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.depth = program.config.queue_depth
        count = len(program.instructions)
        self.module = np.array([NUMBER[i.module] for i in program.instructions], np.int32)
        self.rank = np.zeros(count, np.int32)
        self.before = np.zeros((count, 3), np.int32)
        self.modules = [_Module() for _ in CHAIN]
        self.tokens: dict[Queue, deque[NDArray[np.int32]]] = {
            queue: deque() for queue in ((0, 1), (1, 0), (1, 2), (2, 1))
        }
        self.fetched = 0
        self.links = [
            queues_of(i, int(m)) for i, m in zip(program.instructions, self.module, strict=True)
        ]

    def run(self) -> None:
        """Go on until nothing can."""
        moved = True
        while moved:
            moved = self._fetch()
            for number in range(len(CHAIN)):
                while self._step(number):
                    moved = True

    def _fetch(self) -> bool:
        """Hand instructions to modules, in order, until the queue of one is full."""
        start = self.fetched
        while self.fetched < len(self.module):
            waiting = self.modules[self.module[self.fetched]].waiting
            if len(waiting) >= self.depth:
                break
            waiting.append(self.fetched)
            self.fetched += 1
        return self.fetched > start

    def _step(self, number: int) -> bool:
        """Run the next instruction of a module, if tokens allow."""
        module = self.modules[number]
        if not module.waiting or self.obstacle(number):
            return False
        position = module.waiting.popleft()
        pops, pushes = self.links[position]
        for queue in pops:
            np.maximum(module.clock, self.tokens[queue].popleft(), out=module.clock)
        self.before[position] = module.clock
        module.clock[number] += 1
        self.rank[position] = module.clock[number]
        for queue in pushes:
            self.tokens[queue].append(module.clock.copy())
        return True

    def obstacle(self, number: int) -> str:
        """What the next instruction of a module waits for; empty where it can run."""
        pops, pushes = self.links[self.modules[number].waiting[0]]
        for queue in pops:
            if not self.tokens[queue]:
                return f"a token from {CHAIN[queue[0]].value} that never comes"
        for queue in pushes:
            if len(self.tokens[queue]) >= self.depth:
                return f"room for a token to {CHAIN[queue[1]].value}: {self.depth} wait there"
        return ""


def order(program: Program) -> tuple[Order | None, list[Violation]]:
    """The order that tokens make, or None with the reasons why the program cannot end."""
    run = _Run(program)
    missing = list(_missing_neighbours(program, run))
    if missing:
        return None, missing
    run.run()
    stuck = [number for number, module in enumerate(run.modules) if module.waiting]
    if stuck or run.fetched < len(run.module):
        return None, [
            at(
                program,
                "deadlock",
                run.modules[number].waiting[0],
                f"{CHAIN[number].value} waits for {run.obstacle(number)}",
            )
            for number in stuck
        ]
    left = [
        Violation(
            "token balance",
            None,
            "",
            f"{len(tokens)} token(s) from {CHAIN[queue[0]].value} to {CHAIN[queue[1]].value} are "
            "left at the end and would disturb the next program; pop as many as are pushed",
        )
        for queue, tokens in run.tokens.items()
        if tokens
    ]
    return Order(run.module, run.rank, run.before), left


def _missing_neighbours(program: Program, run: _Run) -> Iterator[Violation]:
    for position, (pops, pushes) in enumerate(run.links):
        for queue in (*pops, *pushes):
            if queue not in run.tokens:
                module = CHAIN[run.module[position]].value
                side = "before" if -1 in queue else "after"
                yield at(program, "deadlock", position, f"{module} has no module {side} it")
