"""Which entries of which memory an instruction touches, checked against the memories' sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ProgramError
from vta_ext.config import Config
from vta_ext.isa.instruction import Instruction, MicroOps, unpack_immediate
from vta_ext.isa.schema import Memory, Source

#: The most micro-ops one instruction may run. Every useful one stays far below; without a limit a
#: damaged program could ask for 2**41.
MAX_MICRO_OPS: Final = 1 << 20

#: The most rows or columns that a LOAD makes on each side.
MAX_PAD: Final = 15

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Transfer:
    """What a LOAD or STORE moves: ``rows`` x ``columns`` elements in the middle of its padding.

    The block of ``height`` x ``width`` entries of the buffer begins at ``sram_base``. Bytes count
    from the start of DRAM.
    """

    memory: Memory
    element: int
    rows: int
    columns: int
    top: int
    left: int
    height: int
    width: int
    sram_base: int
    dram_byte: int
    stride_bytes: int

    @property
    def entries(self) -> int:
        """Entries of the buffer that are written or read."""
        return self.height * self.width

    @property
    def dram_end(self) -> int:
        """One beyond the last byte of DRAM; ``dram_byte`` where there is none."""
        if not self.rows or not self.columns:
            return self.dram_byte
        return self.dram_byte + (self.rows - 1) * self.stride_bytes + self.columns * self.element

    @property
    def moved_bytes(self) -> int:
        """Bytes read from or written to DRAM."""
        return self.rows * self.columns * self.element


def transfer(instruction: Instruction, config: Config) -> Transfer | None:
    """The transfer of a valid LOAD or STORE; None where x_size is 0 and nothing moves."""
    i = instruction
    if i.x_size == 0:
        return None
    memory = i.memory_type
    element: int = getattr(config, memory.element)
    return Transfer(
        memory=memory,
        element=element,
        rows=i.y_size,
        columns=i.x_size,
        top=i.y_pad_0,
        left=i.x_pad_0,
        height=i.y_pad_0 + i.y_size + i.y_pad_1,
        width=i.x_pad_0 + i.x_size + i.x_pad_1,
        sram_base=i.sram_base,
        dram_byte=i.dram_base * element,
        stride_bytes=i.x_stride * element,
    )


def check_transfer(move: Transfer, config: Config, dram_bytes: int) -> None:
    """Raise ProgramError where ``move`` leaves its buffer or DRAM."""
    depth: int = getattr(config, move.memory.depth)
    if move.sram_base + move.entries > depth:
        raise ProgramError(
            f"entries {move.sram_base} to {move.sram_base + move.entries - 1} of buffer "
            f"{move.memory.name} are used, but it has {depth}"
        )
    if move.dram_end > dram_bytes:
        raise ProgramError(
            f"bytes {move.dram_byte} to {move.dram_end - 1} of DRAM are used, but there are "
            f"{dram_bytes}"
        )


def micro_op_count(instruction: Instruction) -> int:
    """How many micro-ops a GEMM or ALU instruction runs."""
    i = instruction
    return max(i.uop_end - i.uop_bgn, 0) * i.iter_out * i.iter_in


def check_micro_op_range(instruction: Instruction, config: Config) -> None:
    """Raise ProgramError for micro-ops outside the buffer, or more than MAX_MICRO_OPS of them."""
    if instruction.uop_end > config.uop_depth:
        raise ProgramError(
            f"micro-ops up to {instruction.uop_end - 1} are used, but the buffer has "
            f"{config.uop_depth}"
        )
    if micro_op_count(instruction) > MAX_MICRO_OPS:
        raise ProgramError(
            f"{micro_op_count(instruction)} micro-ops in one instruction are more than the "
            f"{MAX_MICRO_OPS} allowed; split it"
        )


@dataclass(frozen=True)
class Operand:
    """Entries that an instruction reads or writes: ``base`` of each micro-op plus loop factors.

    ``limit`` is the buffer's number of entries, of which each index takes ``count`` from itself up.
    """

    name: str
    memory: str
    base: Index
    outer: int
    inner: int
    limit: int
    count: int = 1

    def indices(self, loops: tuple[int, int]) -> Index:
        """int64 ``[N]``, in the order in which micro-ops run."""
        steps = np.arange(loops[0])[:, None, None] * self.outer
        steps = steps + np.arange(loops[1])[:, None] * self.inner
        return np.asarray(steps + self.base, np.int64).reshape(-1)

    def check(self, loops: tuple[int, int]) -> None:
        """Raise ProgramError where an index leaves the buffer."""
        last = int(self.base.max()) + (loops[0] - 1) * self.outer + (loops[1] - 1) * self.inner
        if last + self.count > self.limit:
            raise ProgramError(
                f"{self.name} reaches entry {last + self.count - 1} of buffer {self.memory}, which "
                f"has {self.limit}"
            )


def operands(instruction: Instruction, rows: MicroOps, config: Config) -> dict[str, Operand]:
    """The operands dst, src and wgt that a valid GEMM or ALU instruction has.

    ``rows`` are its micro-ops. src is absent where the operand is an immediate, src and wgt where
    a GEMM only clears; wgt of an ALU operation counts rows of codes.
    """
    i = instruction
    dst, src, wgt = rows.astype(np.int64).T
    found = {"dst": Operand("dst", "acc", dst, i.dst_out, i.dst_in, config.acc_depth)}
    if i.kind.mode is not None:
        if i.reset and not i.fresh:
            return found
        found["src"] = Operand("src", "inp", src, i.src_out, i.src_in, config.inp_depth)
        found["wgt"] = Operand("wgt", "wgt", wgt, i.wgt_out, i.wgt_in, config.wgt_depth)
        return found
    operation = i.operation
    if not i.use_imm:
        memory, limit = ("inp", config.inp_depth) if i.from_inp else ("acc", config.acc_depth)
        count = 2 if operation.source is Source.ROWS else 1
        found["src"] = Operand("src", memory, src, i.src_out, i.src_in, limit, count)
    if operation.source is Source.CODES:
        row = unpack_immediate(operation, i.imm)["row"]
        limit = config.wgt_depth * config.block
        found["wgt"] = Operand("wgt", "wgt (rows of codes)", wgt + row, 0, 0, limit)
    return found


def parameters(instruction: Instruction) -> dict[str, int]:
    """The parameters in the immediate of an ALU instruction; none where it is the operand."""
    if instruction.operation.source is Source.OPERAND:
        return {}
    return unpack_immediate(instruction.operation, instruction.imm)


def keeps_from(instruction: Instruction) -> int | None:
    """Micro-op from which on a GEMM or ALU instruction reads the accumulators it writes.

    0: all do. None: none does, since it replaces or clears them.
    """
    i = instruction
    if i.kind.mode is None:
        return None if parameters(i).get("replace") else 0
    if i.reset and i.fresh:
        return micro_op_count(i) // max(i.iter_out, 1)
    return None if i.reset or i.fresh else 0


def check_operands(found: dict[str, Operand], loops: tuple[int, int]) -> None:
    """Raise ProgramError where one of the operands leaves its buffer."""
    if min(loops) and len(found["dst"].base):
        for operand in found.values():
            operand.check(loops)
