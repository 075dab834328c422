"""The functional simulator: what a program computes, bit for bit, without time.

It runs instructions in program order; that a real machine, whose modules run at the same time,
computes the same is what :mod:`vta_ext.checker` proves. The meaning of every instruction is
:mod:`vta_ext.isa.semantics`; here whole instructions become a few NumPy calls.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ProgramError
from tvm_shiftadd.formats.codes import DECODE_TABLE
from vta_ext.config import Config
from vta_ext.isa import access
from vta_ext.isa.arithmetic import wrap
from vta_ext.isa.codec import codec
from vta_ext.isa.instruction import Instruction
from vta_ext.isa.machine import Machine, unpack_codes
from vta_ext.isa.schema import GemmMode, Source
from vta_ext.program import Program
from vta_ext.sim.plans import AluWave, GemmGroup, plan_alu, plan_gemm

#: Called after each instruction with its position, the instruction and the machine.
Observer = Callable[[int, Instruction, Machine], None]

#: int64 indices that cached plans may hold: 256 MB.
_CACHED_INDICES: Final = 1 << 25

#: Products up to which float32 sums are exact.
_EXACT: Final = 1 << 24
#: No product of a mode is greater: inputs are at most 255, weights 128, terms 64.
_GREATEST: Final = {"multiply": 1 << 15, "shift": 1 << 14}

#: The two decoded terms of each byte of codes.
_PAIRS: Final[NDArray[np.int8]] = np.stack(
    [DECODE_TABLE[np.arange(256) & 15], DECODE_TABLE[np.arange(256) >> 4]], axis=1
)


class FunctionalSimulator:
    """A machine that runs programs. Buffers and DRAM keep their contents from run to run.

    An error leaves the machine as it was before the instruction that caused it, and usable.
    """

    def __init__(self, config: Config, dram_bytes: int) -> None:
        self.machine = Machine(config, dram_bytes)
        self._codec = codec(config)
        self._plans: OrderedDict[Hashable, Any] = OrderedDict()
        self._planned = 0
        self._decoded: dict[str, NDArray[Any]] = {}
        self._fresh: dict[str, NDArray[np.bool_]] = {}
        self._execute: dict[str, Callable[[Instruction], None]] = {
            "LOAD": self._load,
            "STORE": self._store,
            "ALU": self._alu,
            "FINISH": lambda instruction: None,
        }

    @property
    def config(self) -> Config:
        """The machine's configuration."""
        return self.machine.config

    def write(self, offset: int, data: bytes | NDArray[Any]) -> None:
        """Copy ``data`` to DRAM from byte ``offset`` up; ProgramError where it does not fit."""
        raw = np.frombuffer(data if isinstance(data, bytes) else data.tobytes(), np.uint8)
        self._check_dram(offset, raw.size)
        self.machine.dram[offset : offset + raw.size] = raw

    def read(self, offset: int, size: int) -> bytes:
        """A copy of ``size`` bytes of DRAM; ProgramError where there are not so many."""
        self._check_dram(offset, size)
        return self.machine.dram[offset : offset + size].tobytes()

    def _check_dram(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > len(self.machine.dram):
            raise ProgramError(
                f"bytes {offset} to {offset + size - 1} are outside the {len(self.machine.dram)} "
                "bytes of DRAM"
            )

    def place(self, program: Program) -> None:
        """Copy the contents of the program's sections to DRAM, whose arena begins at byte 0.

        Raises ProgramError where the program is for another machine or needs more DRAM.
        """
        program.require(self.config)
        if program.dram_bytes > len(self.machine.dram):
            raise ProgramError(
                f"the program needs {program.dram_bytes} bytes of DRAM, the machine has "
                f"{len(self.machine.dram)}; make one with more"
            )
        for section in program.sections:
            if section.data is not None:
                self.write(section.offset, section.data)

    def run_bytes(self, data: bytes) -> None:
        """Run encoded instructions; ProgramError where they are malformed, before any of them."""
        self.run(self._codec.decode_all(data))

    def run(self, instructions: Iterable[Instruction], observer: Observer | None = None) -> None:
        """Run instructions up to FINISH.

        Raises ProgramError, naming position and text of the instruction, where one is not valid
        for this machine or would leave a memory, and where there is no FINISH.
        """
        for position, instruction in enumerate(instructions):
            try:
                self.step(instruction)
            except ProgramError as error:
                raise ProgramError(f"instruction {position} ({instruction}): {error}") from error
            if observer is not None:
                observer(position, instruction, self.machine)
            if instruction.kind.name == "FINISH":
                return
        raise ProgramError("the program has no FINISH, so it would never end; append one")

    def step(self, instruction: Instruction) -> None:
        """Run one instruction; ProgramError where it is not valid or would leave a memory."""
        self._codec.check(instruction)
        if instruction.kind.mode is not None:
            self._gemm(instruction, instruction.kind.mode)
        else:
            self._execute[instruction.kind.name](instruction)

    # Moving data.

    def _rows(self, move: access.Transfer, dtype: str) -> NDArray[Any]:
        """The rows of DRAM that ``move`` means, as elements: a view ``[y, x, *element]``."""
        m, size = self.machine, np.dtype(dtype).itemsize
        lanes = move.element // size
        return np.ndarray(
            (move.rows, move.columns, lanes),
            dtype,
            m.dram,
            move.dram_byte,
            (move.stride_bytes, move.element, size),
        )

    def _load(self, instruction: Instruction) -> None:
        move = access.transfer(instruction, self.config)
        if move is None:
            return
        m = self.machine
        access.check_transfer(move, self.config, len(m.dram))
        name = move.memory.name
        byte = "|u1" if instruction.unsigned else "|i1"
        buffers: dict[str, tuple[NDArray[Any], str]] = {
            "uop": (m.uop, "<u4"),
            "inp": (m.inp, byte),
            "acc": (m.acc, "<i4"),
            "acc8": (m.acc, byte),
            "wgt": (m.wgt, "|u1"),
            "code": (m.wgt, "|u1"),
        }
        buffer, dtype = buffers[name]
        if not move.entries:
            return
        entries = buffer[move.sram_base : move.sram_base + move.entries]
        block = entries.reshape(move.height, move.width, -1)
        bottom, right = move.top + move.rows, move.left + move.columns
        if (move.height, move.width) != (move.rows, move.columns) or name == "code":
            block[:] = -128 if instruction.pad_least else 0
        if move.rows:
            lanes = move.element // np.dtype(dtype).itemsize
            block[move.top : bottom, move.left : right, :lanes] = self._rows(move, dtype)
        if buffer is m.wgt:
            for fresh in self._fresh.values():
                fresh[move.sram_base : move.sram_base + move.entries] = False

    def _store(self, instruction: Instruction) -> None:
        move = access.transfer(instruction, self.config)
        if move is None:
            return
        m = self.machine
        access.check_transfer(move, self.config, len(m.dram))
        if not move.rows:
            return
        buffer, dtype = (m.out, "|i1") if move.memory.name == "out" else (m.acc, "<i4")
        entries = buffer[move.sram_base : move.sram_base + move.entries]
        rows = self._rows(move, dtype)
        if move.stride_bytes >= move.columns * move.element:
            rows[:] = entries.reshape(rows.shape)
            return
        # Rows that overlap in DRAM: the later one must win.
        for row, data in zip(rows, entries.reshape(rows.shape), strict=True):
            row[:] = data

    # Micro-ops.

    def _prepare(
        self, instruction: Instruction
    ) -> tuple[bytes, dict[str, access.Operand], tuple[int, int]] | None:
        """Micro-ops as bytes, checked operands and loops; None where no micro-op runs."""
        access.check_micro_op_range(instruction, self.config)
        if not access.micro_op_count(instruction):
            return None
        words = self.machine.uop[instruction.uop_bgn : instruction.uop_end]
        rows = self._codec.decode_micro_ops(words)
        found = access.operands(instruction, rows, self.config)
        loops = (instruction.iter_out, instruction.iter_in)
        access.check_operands(found, loops)
        return words.tobytes(), found, loops

    def _plan(self, key: Hashable, size: int, make: Callable[[], Any]) -> Any:
        """The plan of ``key``, made if it is not among the ones used last."""
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key][1]
        plan = make()
        self._plans[key] = (size, plan)
        self._planned += size
        while self._planned > _CACHED_INDICES and len(self._plans) > 1:
            self._planned -= self._plans.popitem(last=False)[1][0]
        return plan

    def _gemm(self, instruction: Instruction, mode: GemmMode) -> None:
        prepared = self._prepare(instruction)
        if prepared is None:
            return
        micro_ops, found, loops = prepared
        if "src" not in found:
            entries = np.unique(found["dst"].indices(loops))
            self.machine.acc[entries] = 0
            self.machine.out[entries] = 0
            return
        count = access.micro_op_count(instruction)
        first = count // loops[0] if instruction.reset else count
        replacing = first if instruction.fresh else 0
        factors = tuple((operand.outer, operand.inner) for operand in found.values())

        def make() -> tuple[GemmGroup, ...]:
            dst, src, wgt = (found[name].indices(loops) for name in ("dst", "src", "wgt"))
            return plan_gemm(dst, src, wgt, replacing)

        key = (micro_ops, loops, factors, replacing)
        add_up = self._distances if mode.name == "adder" else self._matrix_product
        for group in self._plan(key, 2 * count, make):
            self._accumulate(group, add_up(group, mode))

    def _accumulate(self, group: GemmGroup, total: NDArray[np.int32]) -> None:
        m = self.machine
        if group.keeps:
            total += m.acc[group.dst]
        m.acc[group.dst] = total
        m.out[group.dst] = total.astype(np.int8)

    def _weights(self, mode: GemmMode, index: access.Index) -> NDArray[Any]:
        """Decoded weights ``[R * block (input), block (output)]`` of entries ``index [R]``."""
        block, integer = self.config.block, mode.memory == "wgt"
        dtype = np.int16 if mode.name == "adder" else np.float32
        if mode.name not in self._decoded:
            shape = (self.config.wgt_depth, block, block)
            self._decoded[mode.name] = np.zeros(shape, dtype)
            self._fresh[mode.name] = np.zeros(self.config.wgt_depth, np.bool_)
        decoded, fresh = self._decoded[mode.name], self._fresh[mode.name]
        if not fresh[index].all():
            stale = np.unique(index[~fresh[index]])
            raw = self.machine.wgt[stale]
            if integer:
                values = np.ascontiguousarray(raw[:, : self.config.wgt_bytes]).view(np.int8)
            else:
                values = _PAIRS[raw[:, : self.config.code_bytes]]
            decoded[stale] = values.reshape(-1, block, block).transpose(0, 2, 1)
            fresh[stale] = True
        return decoded[index].reshape(-1, block)

    def _matrix_product(self, group: GemmGroup, mode: GemmMode) -> NDArray[np.int32]:
        """Sums of products: int32 ``[D, batch, block]``, exact because every part is."""
        batch, block = self.config.batch, self.config.block
        length = max(_EXACT // (_GREATEST[mode.name] * block), 1)
        total: NDArray[np.int32] | None = None
        for start in range(0, len(group.wgt), length):
            part = slice(start, start + length)
            inputs = np.take(self.machine.inp, group.src[:, part], axis=0)
            if batch > 1:
                inputs = inputs.transpose(0, 2, 1, 3)
            flat = inputs.reshape(len(group.dst) * batch, -1).astype(np.float32)
            found = (flat @ self._weights(mode, group.wgt[part])).astype(np.int32)
            total = found if total is None else np.add(total, found, out=total)
        assert total is not None
        return total.reshape(-1, batch, block)

    def _distances(self, group: GemmGroup, mode: GemmMode) -> NDArray[np.int32]:
        """Minus the sums of distances: int32 ``[D, batch, block]``."""
        batch, block = self.config.batch, self.config.block
        weights = self._weights(mode, group.wgt)
        rows = len(group.dst) * batch
        total = np.zeros((rows, block), np.int32)
        scratch = np.empty((rows, block), np.int16)
        partial = np.zeros((rows, block), np.int16)
        for place in range(len(group.wgt)):
            inputs = np.take(self.machine.inp, group.src[:, place], axis=0).reshape(rows, block)
            wide = np.ascontiguousarray(inputs.T).astype(np.int16)
            for lane in range(block):
                np.subtract(wide[lane][:, None], weights[place * block + lane], out=scratch)
                partial += np.abs(scratch, out=scratch)
                # 64 distances of at most 255 + 128 fit 16 bits.
                if (place * block + lane) % 64 == 63:
                    total -= partial
                    partial[:] = 0
        total -= partial
        return total.reshape(-1, batch, block)

    def _alu(self, instruction: Instruction) -> None:
        prepared = self._prepare(instruction)
        if prepared is None:
            return
        micro_ops, found, loops = prepared
        m, operation = self.machine, instruction.operation
        index = {name: operand.indices(loops) for name, operand in found.items()}
        source = found.get("src")

        def make() -> tuple[AluWave, ...]:
            if source is None or source.memory != "acc":
                return plan_alu(index["dst"], None)
            return plan_alu(index["dst"], index["src"][:, None] + np.arange(source.count))

        factors = tuple(
            (operand.memory, operand.outer, operand.inner) for operand in found.values()
        )
        key = (micro_ops, loops, factors, operation.source)
        parameters = access.parameters(instruction)
        for wave in self._plan(key, len(index["dst"]), make):
            part = {name: values[wave.members] for name, values in index.items()}
            given = self._operands(instruction, part)
            new = wrap(operation.compute(m.acc[part["dst"]], *given, **parameters))
            m.acc[part["dst"]] = new
            m.out[part["dst"]] = new.astype(np.int8)

    def _operands(
        self, instruction: Instruction, index: dict[str, access.Index]
    ) -> list[NDArray[np.int32]]:
        """What an operation takes besides the destination: int32, ``[n, batch, block]`` or so."""
        m, source = self.machine, instruction.operation.source
        if source is Source.IMMEDIATE:
            return []
        if instruction.use_imm:
            return [np.array([instruction.imm], np.int32)]
        if source is Source.ROWS:
            return [m.acc[index["src"]], m.acc[index["src"] + 1]]
        vectors = (
            m.inp[index["src"]].astype(np.int32) if instruction.from_inp else m.acc[index["src"]]
        )
        if source is not Source.CODES:
            return [vectors]
        slot, row = np.divmod(index["wgt"], self.config.block)
        rows = m.wgt[:, : self.config.code_bytes].reshape(len(m.wgt), self.config.block, -1)
        codes = unpack_codes(rows[slot, row])
        return [vectors, codes[:, None, :].astype(np.int32)]
