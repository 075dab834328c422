"""Instructions and micro-ops to bits and back, and the rules that make an instruction valid."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ProgramError
from vta_ext.config import Config
from vta_ext.isa import table
from vta_ext.isa.instruction import (
    Instruction,
    MicroOps,
    field_names,
    unpack_immediate,
)
from vta_ext.isa.layout import Bits, instruction_layout, micro_op_layout
from vta_ext.isa.schema import INSTRUCTION_BITS, InstructionKind, Memory, Source
from vta_ext.isa.table import KIND_BY_OPCODE

#: Bytes of an instruction.
INSTRUCTION_BYTES = INSTRUCTION_BITS // 8

_From = TypeVar("_From")
_To = TypeVar("_To")

#: Fields that may only be 0 in a STORE: it has no padding.
_PADDINGS = ("y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1")


class Codec:
    """Encoder and decoder for one configuration. :func:`codec` keeps one for each."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._opcode_mask = 7
        self._fields: dict[InstructionKind, tuple[Bits | None, ...]] = {}
        self._reserved: dict[InstructionKind, int] = {}
        for kind in table.INSTRUCTIONS:
            layout = instruction_layout(kind, config)
            by_name = layout.by_name
            self._fields[kind] = tuple(by_name.get(name) for name in field_names(kind))
            self._reserved[kind] = layout.reserved
        self._micro_op = micro_op_layout(config)

    def check(self, instruction: Instruction) -> None:
        """Raise ProgramError where ``instruction`` is none of this machine."""
        kind = instruction.kind
        if not self.config.has(kind.needs):
            raise ProgramError(
                f"this machine has no {kind.mnemonic}: its GEMM modes are "
                f"{', '.join(self.config.gemm_modes)}"
            )
        names = field_names(kind)
        for name, value, bits in zip(names, instruction.values, self._fields[kind], strict=True):
            least, greatest = (bits.least, bits.greatest) if bits else (0, 0)
            if not least <= value <= greatest:
                raise ProgramError(self._misfit(kind, name, value, least, greatest))
        if kind.suffix == "memory":
            self._check_transfer(instruction)
        elif kind.suffix == "alu_op":
            self._check_alu(instruction)

    def _misfit(
        self, kind: InstructionKind, name: str, value: int, least: int, greatest: int
    ) -> str:
        if least == greatest:
            return f"{kind.name} has {name} = {value}, a feature that this machine lacks"
        return f"{name} of {kind.name} must be {least} to {greatest}, not {value}"

    def _check_transfer(self, instruction: Instruction) -> None:
        memory: Memory = instruction.memory_type
        storing = instruction.kind.name == "STORE"
        possible = memory.store if storing else memory.load is not None
        needs = memory.store_needs if storing else memory.load_needs
        if not possible or not self.config.has(needs):
            raise ProgramError(
                f"this machine cannot {instruction.kind.mnemonic} memory {memory.name}"
                + (f": it lacks {needs}" if possible else "")
            )
        if storing and any(getattr(instruction, name) for name in _PADDINGS):
            raise ProgramError("STORE has no padding; its padding fields must be 0")
        if not storing and instruction.pad_least and not memory.signed_lanes:
            raise ProgramError(f"pad_least of {memory.name} must be 0: its padding is always 0")
        if not storing and instruction.prefetch and not memory.prefetch:
            raise ProgramError(f"prefetch of {memory.name} must be 0: it is for micro-ops")
        if not storing and instruction.unsigned:
            self._check_unsigned(instruction)

    def _check_unsigned(self, instruction: Instruction) -> None:
        memory = instruction.memory_type
        if not memory.byte_lanes:
            raise ProgramError(f"unsigned of {memory.name} must be 0: its lanes are not bytes")
        if instruction.pad_least:
            raise ProgramError("unsigned and pad_least exclude each other: the least is 0")

    def _check_alu(self, instruction: Instruction) -> None:
        operation = instruction.operation
        if operation.name not in self.config.alu_ops:
            raise ProgramError(
                f"this machine has no ALU operation {operation.name}; it has "
                f"{', '.join(self.config.alu_ops)}"
            )
        unpack_immediate(operation, instruction.imm)
        needs = {Source.OPERAND: None, Source.IMMEDIATE: 1}.get(operation.source, 0)
        if needs is not None and instruction.use_imm != needs:
            raise ProgramError(f"use_imm of {operation.name} must be {needs}")
        if instruction.from_inp and (instruction.use_imm or operation.source is Source.ROWS):
            raise ProgramError(
                f"from_inp of {operation.name} must be 0: its operands are not inputs here"
            )

    def encode(self, instruction: Instruction) -> int:
        """The 128 bits of ``instruction``; ProgramError where it does not fit this machine."""
        self.check(instruction)
        word = instruction.kind.opcode
        for value, bits in zip(instruction.values, self._fields[instruction.kind], strict=True):
            if value and bits:
                word |= bits.put(value)
        return word

    def decode(self, word: int) -> Instruction:
        """The instruction of 128 bits.

        Raises ProgramError for a reserved opcode, memory or operation, reserved bits that are
        set, and anything else that :meth:`check` refuses: what decodes encodes to the same bits.
        """
        kind = KIND_BY_OPCODE.get(word & self._opcode_mask)
        if kind is None:
            raise ProgramError(f"opcode {word & self._opcode_mask} is reserved")
        if word & self._reserved[kind]:
            raise ProgramError(
                f"reserved bits of {kind.name} are set: {word & self._reserved[kind]:#034x}"
            )
        values = tuple(bits.get(word) if bits else 0 for bits in self._fields[kind])
        instruction = Instruction(kind, values)
        self.check(instruction)
        return instruction

    def encode_all(self, instructions: Iterable[Instruction]) -> bytes:
        """All instructions, 16 bytes each, little-endian; errors name the position."""
        return b"".join(
            _at(number, self.encode, instruction).to_bytes(INSTRUCTION_BYTES, "little")
            for number, instruction in enumerate(instructions)
        )

    def decode_all(self, data: bytes) -> tuple[Instruction, ...]:
        """The instructions in ``data``; ProgramError names the position of a malformed one."""
        if len(data) % INSTRUCTION_BYTES:
            raise ProgramError(
                f"instructions take {INSTRUCTION_BYTES} bytes each, so {len(data)} bytes are not "
                "whole instructions; the data is truncated"
            )
        words = (
            int.from_bytes(data[start : start + INSTRUCTION_BYTES], "little")
            for start in range(0, len(data), INSTRUCTION_BYTES)
        )
        return tuple(_at(number, self.decode, word) for number, word in enumerate(words))

    def encode_micro_ops(self, rows: MicroOps) -> NDArray[np.uint32]:
        """uint32 ``[n]`` of micro-ops ``[n, 3]``; ProgramError for an index that does not fit."""
        found = np.zeros(len(rows), np.uint32)
        for column, bits in enumerate(self._micro_op.fields):
            values = rows[:, column].astype(np.int64)
            bad = np.flatnonzero((values < 0) | (values > bits.greatest))
            if bad.size:
                raise ProgramError(
                    f"micro-op {bad[0]}: {bits.name} must be 0 to {bits.greatest}, not "
                    f"{values[bad[0]]}"
                )
            found |= (values << bits.low).astype(np.uint32)
        return found

    def decode_micro_ops(self, words: NDArray[np.uint32]) -> MicroOps:
        """Micro-ops ``[n, 3]`` of uint32 ``[n]``. Reserved bits are ignored, as in hardware."""
        wide = words.astype(np.int64)
        columns = [(wide & bits.mask) >> bits.low for bits in self._micro_op.fields]
        return np.stack(columns, axis=1).astype(np.int32)


def _at(number: int, work: Callable[[_From], _To], argument: _From) -> _To:
    try:
        return work(argument)
    except ProgramError as error:
        raise ProgramError(f"instruction {number}: {error}") from error


@lru_cache(maxsize=32)
def codec(config: Config) -> Codec:
    """The codec of ``config``."""
    return Codec(config)
