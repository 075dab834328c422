"""Fields of instructions and micro-ops: slices of their words, where the layout puts them."""

from __future__ import annotations

from amaranth.hdl import Const, Value

from vta_ext.config import Config
from vta_ext.isa import table
from vta_ext.isa.layout import Layout, immediate_layout, instruction_layout, micro_op_layout
from vta_ext.isa.schema import AluOperation, InstructionKind, Module


def _slice(layout: Layout, word: Value, name: str) -> Value:
    bits = layout.by_name.get(name)
    if bits is None or bits.field is None:
        # A feature that this machine lacks: its bits are reserved, which means 0.
        return Const(0, 1)
    value = word[bits.low : bits.low + bits.width]
    return value.as_signed() if bits.field.signed else value


class Decoded:
    """The fields of ``word`` as attributes, read as an instruction of ``kind``."""

    def __init__(self, word: Value, kind: InstructionKind, config: Config) -> None:
        self._word, self._layout = word, instruction_layout(kind, config)

    def __getattr__(self, name: str) -> Value:
        return _slice(self._layout, self._word, name)


LOAD, STORE, FINISH, ALU = (table.KIND_BY_NAME[name] for name in ("LOAD", "STORE", "FINISH", "ALU"))
#: GEMM instructions of all modes have the same fields.
GEMM = table.KIND_BY_NAME["GEMM"]


def micro_op(word: Value, config: Config) -> tuple[Value, Value, Value]:
    """dst, src and wgt of a micro-op."""
    layout = micro_op_layout(config)
    return _slice(layout, word, "dst"), _slice(layout, word, "src"), _slice(layout, word, "wgt")


def parameter(operation: AluOperation, name: str, imm: Value, config: Config) -> Value:
    """A parameter in the immediate of ``operation``."""
    return _slice(immediate_layout(operation, config), imm, name)


def is_kind(word: Value, kind: InstructionKind, config: Config) -> Value:
    """1 where ``word`` has the opcode of ``kind``."""
    return Decoded(word, kind, config).opcode == kind.opcode


def modes(config: Config) -> tuple[InstructionKind, ...]:
    """The GEMM instructions of this machine, in the order of its modes."""
    kinds = {kind.mode.name: kind for kind in table.INSTRUCTIONS if kind.mode}
    return tuple(kinds[name] for name in config.gemm_modes)


def runs_in(word: Value, module: Module, config: Config) -> Value:
    """1 where ``module`` runs the instruction ``word``; the others go to compute."""
    if module is Module.STORE:
        return is_kind(word, STORE, config)
    load = Decoded(word, LOAD, config)
    found = load.prefetch
    for memory in table.MEMORIES:
        if memory.load is Module.LOAD:
            found = found | (load.memory == memory.id)
    return is_kind(word, LOAD, config) & found
