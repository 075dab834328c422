"""The RTL beside the functional simulator: the same state, the same instructions, the same result.

All memories are set to random contents on both sides, instructions run, and every bit of every
memory is compared.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.vta_ext.programs import fill
from tvm_shiftadd.errors import DependencyError, ProgramError
from vta_ext.checks.pipeline import hazard
from vta_ext.config import Config
from vta_ext.isa import access, table
from vta_ext.isa import instruction as isa
from vta_ext.isa.codec import codec
from vta_ext.isa.instruction import Instruction, Tokens
from vta_ext.isa.machine import Machine
from vta_ext.isa.schema import Module, Source
from vta_ext.jit.tokens import Entry, assign_tokens
from vta_ext.rtl.simulation import Memory, Simulation
from vta_ext.sim.functional import FunctionalSimulator

#: Bytes of DRAM that instructions may use, and where the instructions themselves lie.
DATA_BYTES = 4096
#: Of those, the first ones may be stored to; micro-ops are loaded from the others, as programs do:
#: tokens do not order loads of micro-ops and stores.
STORED_BYTES = 3584
_BUFFERS = ("uop", "inp", "wgt", "acc", "out")


def open_simulation(config: Config, memory_bits: int = 64) -> Simulation:
    """The Verilated machine, or a skip with what is missing."""
    try:
        return Simulation(config, memory_bits)
    except DependencyError as error:
        pytest.skip(str(error))


class Scoreboard:
    """A Verilated machine and a functional simulator with one state."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation, self.config = simulation, simulation.config
        self.simulator = FunctionalSimulator(self.config, DATA_BYTES)
        self.dram = np.zeros(1 << 20, np.uint8)
        self.cycles = 0
        simulation.attach(self.dram)

    def fill(self, seed: int) -> None:
        """Random contents on both sides."""
        self.simulator = FunctionalSimulator(self.config, DATA_BYTES)
        fill(self.simulator.machine, seed)
        self.dram[:DATA_BYTES] = self.simulator.machine.dram
        for name, packed in images(self.simulator.machine).items():
            self.simulation.set_buffer(name, packed)

    def run(self, instructions: list[Instruction], memory: Memory) -> None:
        """Run on the RTL and, after each other, on the simulator; compare everything.

        ``instructions`` end with FINISH.
        """
        code = np.frombuffer(codec(self.config).encode_all(instructions), np.uint8)
        self.dram[DATA_BYTES:][: code.size] = code
        self.simulation.set_memory(memory)
        self.cycles += self.simulation.run(DATA_BYTES, len(instructions), 1 << 20)
        for instruction in instructions:
            self.simulator.step(instruction)
        problem = self.difference()
        assert not problem, f"{problem} after {[str(i) for i in instructions]}, {memory}"

    def difference(self) -> str:
        """Where the two sides differ; empty if nowhere."""
        machine = self.simulator.machine
        where = np.flatnonzero(self.dram[:DATA_BYTES] != machine.dram)
        if where.size:
            return f"DRAM byte {where[0]} differs"
        for name, wanted in images(machine).items():
            found = self.simulation.buffer(name)[:, : wanted.shape[1]]
            rows = np.flatnonzero((found != wanted).any(axis=1))
            if rows.size:
                row = rows[0]
                return f"entry {row} of {name} is {found[row]}, expected {wanted[row]}"
        return ""


def images(machine: Machine) -> dict[str, NDArray[np.uint8]]:
    """The buffers as the hardware keeps them, bytes of each entry."""
    found = {
        name: np.ascontiguousarray(getattr(machine, name)).view(np.uint8)
        for name in _BUFFERS
        if name != "inp"
    }
    found = {name: array.reshape(len(getattr(machine, name)), -1) for name, array in found.items()}
    lanes = machine.inp.reshape(len(machine.inp), -1, 1)
    bits = (lanes >> np.arange(9)) & 1
    found["inp"] = np.packbits(
        bits.reshape(len(lanes), -1).astype(np.uint8), axis=1, bitorder="little"
    )
    return found


class Generator:
    """Random instructions that a machine in the state of ``simulator`` may run."""

    def __init__(self, config: Config, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.kinds = [
            kind for kind in table.INSTRUCTIONS if config.has(kind.needs) and kind.name != "FINISH"
        ]

    def draw(self, simulator: FunctionalSimulator, kind: str | None = None) -> Instruction:
        """An instruction, of ``kind`` if given, without tokens."""
        while True:
            names = [k for k in self.kinds if kind in (None, k.name)]
            # As many ALU instructions as all others: there are as many operations.
            alu = [k for k in names if k.name == "ALU" and self.rng.random() < 0.8]
            chosen = alu[0] if alu else names[self.rng.integers(len(names))]
            if chosen.name in ("LOAD", "STORE"):
                found = self._transfer(chosen.name == "STORE")
            else:
                found = self._loops(chosen)
            if found is not None and self._possible(found, simulator):
                return found

    def _small(self, most: int) -> int:
        """0 to ``most``, small ones more often."""
        return int(self.rng.integers(most + 1) // self.rng.integers(1, 4))

    def _transfer(self, storing: bool) -> Instruction:
        memories = [
            m
            for m in table.MEMORIES
            if (m.store if storing else m.load is not None)
            and self.config.has(m.store_needs if storing else m.load_needs)
        ]
        memory = memories[self.rng.integers(len(memories))]
        element: int = getattr(self.config, memory.element)
        depth: int = getattr(self.config, memory.depth)
        columns, rows = int(self.rng.integers(1, 6)), self._small(4)
        stride = columns if self.rng.random() < 0.5 else self._small(12)
        first = STORED_BYTES // element if memory.name == "uop" else 0
        base = int(self.rng.integers(first, DATA_BYTES // element))
        if storing:
            return isa.store(
                memory.name,
                sram_base=self._small(depth - 1),
                dram_base=base,
                x_size=columns,
                y_size=rows,
                x_stride=stride,
            )
        pads = [self._small(2) if self.rng.random() < 0.5 else 0 for _ in range(4)]
        unsigned = memory.byte_lanes and bool(self.rng.integers(2))
        return isa.load(
            memory.name,
            sram_base=self._small(depth - 1),
            dram_base=base,
            x_size=columns if self.rng.random() < 0.97 else 0,
            y_size=rows,
            x_stride=stride,
            y_pad=(pads[0], pads[1]),
            x_pad=(pads[2], pads[3]),
            prefetch=memory.prefetch and self.config.has("prefetch") and self.rng.random() < 0.5,
            unsigned=unsigned and self.config.has("unsigned-input"),
            pad_least=bool(
                memory.signed_lanes
                and not unsigned
                and self.config.has("pad-least")
                and self.rng.integers(2)
            ),
        )

    def _loops(self, kind: table.InstructionKind) -> Instruction:
        rng, config = self.rng, self.config
        begin = int(rng.integers(config.uop_depth))
        loops = {
            "uops": (begin, min(begin + self._small(6), config.uop_depth)),
            "loops": (self._small(4), self._small(9)),
            "dst": (self._small(5), self._small(3)),
            "src": (self._small(5), self._small(3)),
        }
        if kind.mode is not None:
            ways = list(isa.ACCUMULATE) if config.has("fresh") else ["add", "clear"]
            return isa.gemm(
                kind.mode.name,
                **loops,
                wgt=(self._small(2), self._small(2)),
                accumulate=ways[rng.integers(len(ways))],
            )
        operations = [op for op in table.ALU_OPERATIONS if op.name in config.alu_ops]
        operation = operations[rng.integers(len(operations))]
        immediate = {}
        if operation.source is Source.OPERAND:
            if rng.integers(2):
                immediate = {"imm": int(rng.choice([-32768, -31, -1, 0, 1, 7, 32, 32767]))}
        else:
            for field in operation.immediate:
                if isinstance(field, table.Field):
                    least = -(1 << (field.width.plus - 1)) if field.signed else 0
                    limit = least + (1 << field.width.plus)
                    value = int(rng.integers(least, limit))
                    immediate[field.name] = value % 24 if field.name == "row" else value
        plain = immediate == {} or operation.source in (Source.VECTOR, Source.CODES)
        vector = operation.source is not Source.ROWS and plain
        from_inp = vector and config.has("input-source") and bool(rng.integers(2))
        return isa.alu(operation.name, **loops, from_inp=from_inp, **immediate)

    def _possible(self, instruction: Instruction, simulator: FunctionalSimulator) -> bool:
        """Whether it stays inside, and inside the pipeline's rule."""
        config = self.config
        try:
            codec(config).check(instruction)
            if instruction.kind.name in ("LOAD", "STORE"):
                move = access.transfer(instruction, config)
                if move is not None:
                    storing = instruction.kind.name == "STORE"
                    access.check_transfer(move, config, STORED_BYTES if storing else DATA_BYTES)
                return True
            access.check_micro_op_range(instruction, config)
            rows = self.rows(instruction, simulator)
            found = access.operands(instruction, rows, config)
            loops = (instruction.iter_out, instruction.iter_in)
            access.check_operands(found, loops)
        except ProgramError:
            return False
        if not access.micro_op_count(instruction):
            return self.rng.random() < 0.1
        index = {name: operand.indices(loops) for name, operand in found.items()}
        return not hazard(instruction, index, found, config)

    def rows(self, instruction: Instruction, simulator: FunctionalSimulator) -> isa.MicroOps:
        """The micro-ops that it runs."""
        words = simulator.machine.uop[instruction.uop_bgn : instruction.uop_end]
        return codec(self.config).decode_micro_ops(words)


def alone(instruction: Instruction) -> list[Instruction]:
    """The instruction as a program: FINISH waits for the module that runs it."""
    if instruction.module is Module.LOAD:
        return [instruction.replace(push_next=1), isa.finish(Tokens(pop_prev=True))]
    if instruction.module is Module.STORE:
        return [instruction.replace(push_prev=1), isa.finish(Tokens(pop_next=True))]
    return [instruction, isa.finish()]


def program(generator: Generator, simulator: FunctionalSimulator, count: int) -> list[Instruction]:
    """A program of ``count`` instructions and the tokens that order them, from that state on.

    The state is followed on a copy.
    """
    follower = FunctionalSimulator(generator.config, DATA_BYTES)
    for field in ("dram", *_BUFFERS):
        getattr(follower.machine, field)[:] = getattr(simulator.machine, field)
    entries = []
    for _ in range(count):
        instruction = generator.draw(follower)
        while not _touches(instruction, generator.config):
            instruction = generator.draw(follower)
        # Nothing orders micro-ops that the load module fetches; that they arrive is tested alone.
        if instruction.kind.name == "LOAD":
            instruction = instruction.replace(prefetch=0)
        computes = instruction.kind.mode is not None or instruction.kind.name == "ALU"
        rows = generator.rows(instruction, follower) if computes else None
        entries.append(Entry(instruction, rows))
        follower.step(instruction)
    ordered = assign_tokens([*entries, Entry(isa.finish())], generator.config, (0, DATA_BYTES))
    return [entry.instruction for entry in ordered]


def _touches(instruction: Instruction, config: Config) -> bool:
    """Whether it does anything; what does not needs no order."""
    if instruction.kind.name in ("LOAD", "STORE"):
        move = access.transfer(instruction, config)
        return move is not None and move.rows > 0
    return access.micro_op_count(instruction) > 0


def random_memory(rng: np.random.Generator) -> Memory:
    """Any latency, and handshakes refused now and then."""
    chances = tuple(float(rng.choice([0.0, 0.1, 0.5])) for _ in range(3))
    return Memory(int(rng.integers(1, 60)), chances, int(rng.integers(1 << 30)))
