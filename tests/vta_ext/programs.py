"""Hypothesis strategies and helpers for programs, shared by the tests of the accelerator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from tvm_shiftadd.errors import ProgramError
from vta_ext import presets
from vta_ext.config import Config
from vta_ext.isa import table
from vta_ext.isa.codec import codec
from vta_ext.isa.instruction import Instruction, field_names, make
from vta_ext.isa.layout import instruction_layout
from vta_ext.isa.schema import Source

#: Everything the table knows, in buffers small enough that random indices meet.
TINY = replace(
    presets.SHIFT_ADDER,
    log_block=2,
    log_uop_buff_size=5,
    log_inp_buff_size=6,
    log_wgt_buff_size=7,
    log_acc_buff_size=8,
    gemm_modes=("multiply", "shift", "adder"),
    alu_ops=tuple(operation.name for operation in table.ALU_OPERATIONS),
)
#: The same with elements of two rows.
TINY_BATCH = replace(TINY, log_batch=1, log_inp_buff_size=7, log_acc_buff_size=9)


@st.composite
def valid_instructions(draw: st.DrawFn, config: Config, small: bool = False) -> Instruction:
    """Any instruction that encodes for ``config``; ``small`` ones tend to stay inside."""
    kind = draw(st.sampled_from([k for k in table.INSTRUCTIONS if config.has(k.needs)]))
    bits = instruction_layout(kind, config).by_name
    values = {}
    for name in field_names(kind):
        if name not in bits:
            continue
        least, greatest = bits[name].least, bits[name].greatest
        if small and name not in ("memory", "alu_op", "imm"):
            greatest = min(greatest, 3)
        values[name] = draw(st.integers(least, greatest))
    instruction = _legal(draw, make(kind, **values), config)
    codec(config).check(instruction)
    return instruction


def _legal(draw: st.DrawFn, instruction: Instruction, config: Config) -> Instruction:
    """Bring combinations of fields that exclude each other into order."""
    if instruction.kind.name in ("LOAD", "STORE"):
        storing = instruction.kind.name == "STORE"
        memory = draw(
            st.sampled_from(
                [
                    m
                    for m in table.MEMORIES
                    if (m.store if storing else m.load is not None)
                    and config.has(m.store_needs if storing else m.load_needs)
                ]
            )
        )
        changes = {"memory": memory.id}
        if storing:
            changes |= dict.fromkeys(("y_pad_0", "y_pad_1", "x_pad_0", "x_pad_1"), 0)
        else:
            changes["prefetch"] = instruction.prefetch & memory.prefetch
            changes["unsigned"] = instruction.unsigned & memory.byte_lanes
            changes["pad_least"] = (
                instruction.pad_least & memory.signed_lanes & ~changes["unsigned"]
            )
        return instruction.replace(**changes)
    if instruction.kind.name == "ALU":
        operations = [op for op in table.ALU_OPERATIONS if op.name in config.alu_ops]
        operation = draw(st.sampled_from(operations))
        page, low = divmod(operation.code, 8)
        changes = {"alu_page": page, "alu_op": low, "imm": instruction.imm}
        if operation.source is not Source.OPERAND:
            changes["use_imm"] = int(operation.source is Source.IMMEDIATE)
        if operation.name == "sha":
            changes["imm"] &= 127
        if operation.name == "lsa":
            changes["imm"] &= -32768 | 31
        if changes.get("use_imm", instruction.use_imm) or operation.source is Source.ROWS:
            changes["from_inp"] = 0
        return instruction.replace(**changes)
    return instruction


def runs(work: object, *arguments: object) -> bool:
    """Whether the call does without ProgramError."""
    try:
        work(*arguments)  # type: ignore[operator]
    except ProgramError:
        return False
    return True


def fill(machine: object, seed: int) -> None:
    """Random contents in all memories of ``machine``; micro-ops that tend to stay inside."""
    rng = np.random.default_rng(seed)
    for name in ("dram", "uop", "wgt", "acc", "out"):
        array = getattr(machine, name)
        array.view(np.uint8)[:] = rng.integers(0, 256, array.view(np.uint8).shape, np.uint8)
    machine.inp[:] = rng.integers(-128, 256, machine.inp.shape)  # type: ignore[attr-defined]
    rows = rng.integers(0, 6, (len(machine.uop), 3)).astype(np.int32)  # type: ignore[attr-defined]
    machine.uop[:] = codec(machine.config).encode_micro_ops(rows)  # type: ignore[attr-defined]
