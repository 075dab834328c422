"""Dependency tokens, from what instructions read and write.

Modules run at the same time and wait for each other through four queues of tokens only. One walk
in program order keeps, for each entry of each buffer, who touched it last, and for each module,
what it is known to come after. Where an instruction needs more than that, its producer gives one
token and it takes one. Loads and stores have no queue between them: where one must wait for the
other, an instruction of the compute module that moves nothing passes the token on.

No deadlock: every token runs forward in program order, and in program order no queue ever holds
more than its depth, so the earliest unfinished instruction can always finish.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vta_ext.config import Config
from vta_ext.isa import access
from vta_ext.isa.instruction import TOKENS, Instruction, MicroOps, load, store
from vta_ext.isa.schema import Module

#: Bytes of DRAM that are followed as one.
_GRAIN = 64
_ORDER = (Module.LOAD, Module.COMPUTE, Module.STORE)
#: What moves nothing, by module.
_NOTHING = (
    load("inp", sram_base=0, dram_base=0, x_size=0, y_size=0),
    load("uop", sram_base=0, dram_base=0, x_size=0, y_size=0),
    store(sram_base=0, dram_base=0, x_size=0, y_size=0),
)
Index = NDArray[np.int64]


@dataclass
class Entry:
    """An instruction before tokens, and its micro-ops ``[n, 3]`` if it runs any."""

    instruction: Instruction
    rows: MicroOps | None = None
    label: str = ""


@dataclass
class _Issued:
    """An instruction with the tokens it has so far, and what was known when it ended."""

    entry: Entry
    module: int
    known: tuple[int, ...]
    tokens: dict[str, int] = field(default_factory=dict)


def assign_tokens(entries: Iterable[Entry], config: Config, dram: tuple[int, int]) -> list[Entry]:
    """The same instructions with tokens, and with instructions that pass tokens on.

    ``dram``: first and last byte plus one of the memory that programs both write and read.
    """
    found = _Assignment(config, dram)
    for entry in entries:
        found.add(entry)
    return found.finish()


class _Assignment:
    def __init__(self, config: Config, dram: tuple[int, int]) -> None:
        self._config, self._dram = config, dram
        grains = -(-(dram[1] - dram[0]) // _GRAIN)
        sizes = {
            "inp": config.inp_depth,
            "wgt": config.wgt_depth,
            "acc": config.acc_depth,
            "uop": config.uop_depth,
            "dram": grains,
        }
        # Number of the last instruction of each module that wrote or read an entry; -1: none.
        self._wrote = {name: np.full((3, size), -1, np.int64) for name, size in sizes.items()}
        self._read = {name: np.full((3, size), -1, np.int64) for name, size in sizes.items()}
        self._issued: list[_Issued] = []
        # By queue: tokens given so far, and the instructions that took them, in order.
        self._given: dict[tuple[int, int], int] = {}
        self._taken: dict[tuple[int, int], list[int]] = {}
        self._known: list[tuple[int, ...]] = [(-1, -1, -1)] * 3

    def add(self, entry: Entry) -> None:
        module = _ORDER.index(entry.instruction.module)
        writes, reads = self._touched(entry, module)
        needed = [-1, -1, -1]
        if entry.instruction.kind.name == "FINISH":
            # The host is told when everything is in memory, not when it is computed.
            needed[2] = self._known[2][2]
        for other in range(3):
            if other == module:
                continue
            for name, index in writes:
                for table in (self._wrote, self._read):
                    needed[other] = max(needed[other], int(table[name][other][index].max()))
            for name, index in reads:
                needed[other] = max(needed[other], int(self._wrote[name][other][index].max()))
        if module != 1 and needed[2 - module] > self._known[module][2 - module]:
            if self._known[1][2 - module] < needed[2 - module]:
                self._relay(needed[2 - module], 2 - module)
            needed[1] = self._known[1][1]
        number = self._issue(entry, module, needed)
        for name, index in writes:
            self._wrote[name][module][index] = number
        for name, index in reads:
            self._read[name][module][index] = number

    def _relay(self, producer: int, side: int) -> None:
        """An instruction of the compute module that comes after ``producer`` of module ``side``."""
        needed = [-1, -1, -1]
        needed[side] = producer
        self._pause(1, needed)

    def _pause(self, module: int, needed: Sequence[int]) -> int:
        """An instruction that moves nothing, for its tokens."""
        label = self._issued[-1].entry.label if self._issued else ""
        return self._issue(Entry(_NOTHING[module], None, label), module, needed)

    def _issue(self, entry: Entry, module: int, needed: Sequence[int]) -> int:
        issued = _Issued(entry, module, self._known[module])
        known = list(self._known[module])
        taken: list[tuple[int, int]] = []
        for other in (module - 1, module + 1):
            if other not in range(3) or needed[other] <= known[other]:
                continue
            giver = self._giver(needed[other], other, module)
            producer = self._issued[giver]
            producer.tokens["push_next" if other < module else "push_prev"] = 1
            issued.tokens["pop_prev" if other < module else "pop_next"] = 1
            taken.append((other, module))
            known = [max(pair) for pair in zip(known, producer.known, strict=True)]
            known[other] = max(known[other], giver)
        number = len(self._issued)
        known[module] = number
        for queue in taken:
            self._taken.setdefault(queue, []).append(number)
        issued.known = self._known[module] = tuple(known)
        self._issued.append(issued)
        return number

    def _giver(self, first: int, module: int, reader: int) -> int:
        """The instruction of ``module``, from ``first`` on, that gives ``reader`` its token.

        It is the first one unless the queue would hold too many tokens then: a later one will do,
        once more of them have been taken, if need be one that does nothing else. Tokens are given
        in the order in which they are taken, so what the queue holds between is no more.
        """
        queue, flag = (module, reader), "push_next" if module < reader else "push_prev"
        given, taken = self._given.get(queue, 0) + 1, self._taken.get(queue, [])
        self._given[queue] = given
        for number in range(first, len(self._issued)):
            issued = self._issued[number]
            if issued.module != module or flag in issued.tokens:
                continue
            if given - bisect_left(taken, number) <= self._config.queue_depth:
                return number
        return self._pause(module, [-1, -1, -1])

    def _touched(
        self, entry: Entry, module: int
    ) -> tuple[list[tuple[str, Index]], list[tuple[str, Index]]]:
        """(written, read) entries of buffers that more than one module touches."""
        instruction = entry.instruction
        if instruction.kind.name in ("LOAD", "STORE"):
            return self._moved(instruction, module)
        if instruction.kind.name == "FINISH" or entry.rows is None or not len(entry.rows):
            return [], []
        loops = (instruction.iter_out, instruction.iter_in)
        found = access.operands(instruction, entry.rows, self._config)
        writes = [("acc", _entries(found["dst"], loops))]
        reads = [
            (operand.memory.partition(" ")[0], _entries(operand, loops))
            for name, operand in found.items()
            if name != "dst"
        ]
        if "(rows" in getattr(found.get("wgt"), "memory", ""):
            reads[-1] = ("wgt", np.unique(reads[-1][1] // self._config.block))
        reads.append(("uop", np.arange(instruction.uop_bgn, instruction.uop_end)))
        return writes, [(name, index) for name, index in reads if name != "acc"]

    def _moved(
        self, instruction: Instruction, module: int
    ) -> tuple[list[tuple[str, Index]], list[tuple[str, Index]]]:
        move = access.transfer(instruction, self._config)
        if move is None:
            return [], []
        buffer = {"code": "wgt", "acc8": "acc", "out": "acc"}.get(
            move.memory.name, move.memory.name
        )
        sram = (buffer, np.arange(move.sram_base, move.sram_base + move.entries))
        rows = move.dram_byte - self._dram[0] + np.arange(move.rows) * move.stride_bytes
        grains = -(-(move.columns * move.element) // _GRAIN) + 1
        touched = np.unique(rows[:, None] // _GRAIN + np.arange(grains))
        last = (rows[-1:].sum() + move.columns * move.element - 1) // _GRAIN
        inside = (touched >= 0) & (touched < self._wrote["dram"].shape[1]) & (touched <= last)
        dram = [("dram", touched[inside])] if inside.any() else []
        return (dram, [sram]) if module == 2 else ([sram], dram)

    def finish(self) -> list[Entry]:
        """The instructions with their tokens."""
        return [
            Entry(
                issued.entry.instruction.replace(
                    **{name: issued.tokens.get(name, 0) for name in TOKENS}
                ),
                issued.entry.rows,
                issued.entry.label,
            )
            for issued in self._issued
        ]


def _entries(operand: access.Operand, loops: tuple[int, int]) -> Index:
    """The distinct entries of an operand; ROWS operands take more than one."""
    index = np.unique(operand.indices(loops))
    if operand.count > 1:
        index = np.unique(index[:, None] + np.arange(operand.count))
    return index
