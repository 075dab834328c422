"""The micro-op buffer as a program fills it: known before the program runs.

Micro-ops come from sections with contents, so what each GEMM and ALU instruction will touch
follows from the program alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vta_ext.isa import access
from vta_ext.isa.codec import codec
from vta_ext.isa.instruction import Instruction, MicroOps
from vta_ext.program import Program


class MicroOpBuffer:
    """Follows the LOADs of micro-ops, in program order."""

    def __init__(self, program: Program) -> None:
        self.config = program.config
        self.words = np.zeros(program.config.uop_depth, np.uint32)
        self.image = np.zeros(program.dram_bytes, np.uint8)
        for section in program.sections:
            if section.data is not None:
                self.image[section.offset : section.end] = np.frombuffer(section.data, np.uint8)

    def constants(self, move: access.Transfer) -> NDArray[np.uint8]:
        """Bytes ``[rows, columns * element]`` that a LOAD inside DRAM finds there at the start."""
        shape, strides = (move.rows, move.columns * move.element), (move.stride_bytes, 1)
        return np.ndarray(shape, np.uint8, self.image, move.dram_byte, strides)

    def load(self, move: access.Transfer) -> None:
        """Follow a LOAD of micro-ops that stays inside the buffer and DRAM."""
        block = np.zeros((move.height, move.width), np.uint32)
        if move.rows and move.columns:
            rows = np.ascontiguousarray(self.constants(move)).view("<u4")
            block[move.top : move.top + move.rows, move.left : move.left + move.columns] = rows
        self.words[move.sram_base : move.sram_base + move.entries] = block.reshape(-1)

    def rows(self, instruction: Instruction) -> MicroOps:
        """The micro-ops ``[n, 3]`` of a GEMM or ALU instruction."""
        words = self.words[instruction.uop_bgn : max(instruction.uop_end, instruction.uop_bgn)]
        return codec(self.config).decode_micro_ops(words)

    def operands(self, instruction: Instruction) -> dict[str, access.Operand]:
        """The operands of a GEMM or ALU instruction; ProgramError where they leave a buffer."""
        access.check_micro_op_range(instruction, self.config)
        found = access.operands(instruction, self.rows(instruction), self.config)
        access.check_operands(found, (instruction.iter_out, instruction.iter_in))
        return found
