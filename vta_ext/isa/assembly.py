"""Programs as text: one instruction a line, and back to the same bits.

A line is the mnemonic, then ``field=value`` for every field that is not 0, in the order of the
table. A flag that is 1 is its name alone. ``; `` begins a comment. Example:

    load.inp pop_next push_next sram_base=0 dram_base=64 y_size=4 x_size=16 x_stride=16
    gemm.shift uop_end=4 iter_out=3 iter_in=14 fresh dst_in=1 src_in=1
    alu.req uop_end=4 iter_out=1 iter_in=14 dst_in=1 lo=0 hi=127
    finish
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Final

from tvm_shiftadd.errors import ProgramError
from vta_ext.isa import table
from vta_ext.isa.instruction import (
    Instruction,
    MicroOps,
    field_names,
    make,
    micro_ops,
    pack_immediate,
    unpack_immediate,
)
from vta_ext.isa.schema import ALU_CODE_BITS, Field, InstructionKind, Source
from vta_ext.isa.table import MEMORY_BY_NAME, OPERATION_BY_NAME

#: Fields that the mnemonic tells, for each way it may end.
_SPELLED: Final = {"memory": ("memory",), "alu_op": ("alu_op", "alu_page"), None: ()}

_WORD: Final = re.compile(r"([a-z_0-9]+)(?:=(-?[0-9]+|-?0x[0-9a-fA-F]+))?\Z")


def format_instruction(instruction: Instruction) -> str:
    """The text of a valid instruction."""
    kind = instruction.kind
    mnemonic, values = kind.mnemonic, instruction.to_dict()
    if kind.suffix == "memory":
        mnemonic += f".{instruction.memory_type.name}"
    elif kind.suffix == "alu_op":
        operation = instruction.operation
        mnemonic += f".{operation.name}"
        if operation.source is not Source.OPERAND:
            del values["use_imm"], values["imm"]
            values |= unpack_immediate(operation, instruction.imm)
    for name in _SPELLED[kind.suffix]:
        del values[name]
    words = [
        name if value == 1 and name in _flags(kind) else f"{name}={value}"
        for name, value in values.items()
        if value
    ]
    return " ".join([mnemonic, *words])


@cache
def _flags(kind: InstructionKind) -> frozenset[str]:
    """Fields of one bit."""
    entries = [entry for word in kind.words for entry in word if isinstance(entry, Field)]
    if kind.suffix == "alu_op":
        entries += [
            entry
            for operation in table.ALU_OPERATIONS
            for entry in operation.immediate
            if isinstance(entry, Field)
        ]
    return frozenset(e.name for e in entries if e.width.plus == 1 and e.width.parameter is None)


@cache
def _mnemonics() -> dict[str, tuple[InstructionKind, dict[str, int]]]:
    """Every mnemonic: the kind, and the fields it settles."""
    found: dict[str, tuple[InstructionKind, dict[str, int]]] = {}
    for kind in table.INSTRUCTIONS:
        if kind.suffix == "memory":
            for memory in MEMORY_BY_NAME.values():
                found[f"{kind.mnemonic}.{memory.name}"] = (kind, {"memory": memory.id})
        elif kind.suffix == "alu_op":
            for name, operation in OPERATION_BY_NAME.items():
                page, low = divmod(operation.code, 1 << ALU_CODE_BITS)
                found[f"{kind.mnemonic}.{name}"] = (kind, {"alu_op": low, "alu_page": page})
        else:
            found[kind.mnemonic] = (kind, {})
    return found


def parse_instruction(text: str) -> Instruction:
    """The instruction of one line without its comment.

    Raises ProgramError for an unknown mnemonic or field, a repeated field or a malformed value.
    Whether values fit a machine is checked when the instruction is encoded.
    """
    mnemonic, *words = text.split() or [""]
    if mnemonic not in _mnemonics():
        family = mnemonic.partition(".")[0]
        near = [name for name in _mnemonics() if name.partition(".")[0] == family]
        known = near or sorted({name.partition(".")[0] for name in _mnemonics()})
        raise ProgramError(f"no instruction {mnemonic!r}; known are {', '.join(known)}")
    kind, settled = _mnemonics()[mnemonic]
    values: dict[str, int] = {}
    for word in words:
        match = _WORD.match(word)
        if match is None or (match[2] is None and match[1] not in _flags(kind)):
            raise ProgramError(f"expected field=value with a whole number, got {word!r}")
        if match[1] in values or match[1] in settled:
            raise ProgramError(f"field {match[1]!r} is given twice")
        values[match[1]] = _number(match[2])
    if kind.suffix == "alu_op":
        values = _with_immediate(mnemonic.partition(".")[2], values)
    return make(kind, **values, **settled)


def _number(text: str | None) -> int:
    # Python refuses to read thousands of digits; no field has more than ten.
    if text is not None and len(text) > 20:
        raise ProgramError(f"{text[:20]}... is too large for any field")
    return 1 if text is None else int(text, 0 if "0x" in text else 10)


def _with_immediate(operation: str, values: dict[str, int]) -> dict[str, int]:
    """Pack the parameters of an ALU operation, if it has its own, into imm."""
    entry = OPERATION_BY_NAME[operation]
    if entry.source is Source.OPERAND:
        return values
    names = field_names(table.KIND_BY_NAME["ALU"])
    own = {name: value for name, value in values.items() if name not in names}
    rest = {name: value for name, value in values.items() if name in names}
    if {"imm", "use_imm"} & rest.keys():
        raise ProgramError(f"{operation} has no imm and use_imm; give its parameters by name")
    rest["imm"] = pack_immediate(entry, own)
    rest["use_imm"] = int(entry.source is Source.IMMEDIATE)
    return rest


def strip_comment(line: str) -> str:
    """The line without comment and surrounding blanks."""
    return line.partition(";")[0].strip()


def format_instructions(instructions: Iterable[Instruction]) -> str:
    """One line an instruction."""
    return "".join(f"{format_instruction(instruction)}\n" for instruction in instructions)


def parse_instructions(text: str) -> tuple[Instruction, ...]:
    """The instructions of a text; ProgramError names the line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if wanted := strip_comment(line):
            found.append(at_line(number, wanted))
    return tuple(found)


def at_line(number: int, text: str) -> Instruction:
    """:func:`parse_instruction`, with the line's number in errors."""
    try:
        return parse_instruction(text)
    except ProgramError as error:
        raise ProgramError(f"line {number}: {error}") from error


def format_micro_op(row: Iterable[int]) -> str:
    """The text of one micro-op."""
    dst, src, wgt = (int(value) for value in row)
    return f"{dst} {src} {wgt}"


def parse_micro_op(text: str) -> MicroOps:
    """The micro-op ``[1, 3]`` of a line of three whole numbers: dst, src, wgt; ProgramError."""
    words = text.split()
    if len(words) != 3 or not all(re.fullmatch(r"[0-9]{1,9}", word) for word in words):
        raise ProgramError(f"expected a micro-op, three whole numbers dst src wgt, got {text!r}")
    return micro_ops([[int(word) for word in words]])
