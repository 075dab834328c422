"""What each instruction does to a machine, one micro-op at a time: the definition.

Slow on purpose: nothing here is clever. :mod:`vta_ext.sim.functional` does the same fast and is
tested against this; so is hardware. An instruction that would leave a memory raises ProgramError
and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vta_ext.isa import access
from vta_ext.isa.arithmetic import wrap
from vta_ext.isa.codec import codec
from vta_ext.isa.instruction import Instruction
from vta_ext.isa.machine import Machine
from vta_ext.isa.schema import AluOperation, GemmMode, Source


def execute(machine: Machine, instruction: Instruction) -> None:
    """Run one instruction, without regard to tokens.

    Raises ProgramError where it is not valid for this machine or would leave a memory.
    """
    codec(machine.config).check(instruction)
    _EXECUTE[instruction.kind.name.partition("_")[0]](machine, instruction)


def _load(machine: Machine, instruction: Instruction) -> None:
    move = access.transfer(instruction, machine.config)
    if move is None:
        return
    access.check_transfer(move, machine.config, len(machine.dram))
    padding = -128 if instruction.pad_least else 0
    for y in range(move.height):
        for x in range(move.width):
            row, column = y - move.top, x - move.left
            entry = move.sram_base + y * move.width + x
            if 0 <= row < move.rows and 0 <= column < move.columns:
                start = move.dram_byte + row * move.stride_bytes + column * move.element
                data = machine.dram[start : start + move.element]
                _write(machine, move.memory.name, entry, data, bool(instruction.unsigned))
            else:
                _pad(machine, move.memory.name, entry, padding)


def _write(machine: Machine, memory: str, entry: int, data: NDArray[Any], unsigned: bool) -> None:
    """Put the bytes of one element into one entry of a buffer."""
    shape = (machine.config.batch, machine.config.block)
    lanes = data if unsigned else data.view(np.int8)
    if memory == "uop":
        machine.uop[entry] = data.view("<u4")[0]
    elif memory == "inp":
        machine.inp[entry] = lanes.reshape(shape)
    elif memory == "acc":
        machine.acc[entry] = data.view("<i4").reshape(shape)
    elif memory == "acc8":
        machine.acc[entry] = lanes.reshape(shape)
    else:
        machine.wgt[entry] = 0
        machine.wgt[entry, : data.size] = data


def _pad(machine: Machine, memory: str, entry: int, value: int) -> None:
    """Fill every lane of one entry with ``value``; it is 0 for micro-ops and weights."""
    buffers: dict[str, NDArray[Any]] = {
        "uop": machine.uop,
        "inp": machine.inp,
        "acc": machine.acc,
        "acc8": machine.acc,
    }
    buffers.get(memory, machine.wgt)[entry] = value


def _store(machine: Machine, instruction: Instruction) -> None:
    move = access.transfer(instruction, machine.config)
    if move is None:
        return
    access.check_transfer(move, machine.config, len(machine.dram))
    buffer = machine.out if move.memory.name == "out" else machine.acc
    for row in range(move.rows):
        for column in range(move.columns):
            data = buffer[move.sram_base + row * move.columns + column]
            start = move.dram_byte + row * move.stride_bytes + column * move.element
            machine.dram[start : start + move.element] = np.frombuffer(data.tobytes(), np.uint8)


def _micro_ops(machine: Machine, instruction: Instruction) -> dict[str, access.Index]:
    """Index of each operand for every micro-op that runs, in order; bounds are checked."""
    access.check_micro_op_range(instruction, machine.config)
    words = machine.uop[instruction.uop_bgn : max(instruction.uop_end, instruction.uop_bgn)]
    rows = codec(machine.config).decode_micro_ops(words)
    found = access.operands(instruction, rows, machine.config)
    loops = (instruction.iter_out, instruction.iter_in)
    access.check_operands(found, loops)
    return {name: operand.indices(loops) for name, operand in found.items()}


def _set(machine: Machine, entry: int, value: NDArray[Any]) -> None:
    machine.acc[entry] = value
    machine.out[entry] = value.astype(np.int8)


def _gemm(machine: Machine, instruction: Instruction) -> None:
    mode = instruction.kind.mode
    assert mode is not None
    index = _micro_ops(machine, instruction)
    first = len(index["dst"]) // max(instruction.iter_out, 1)
    for number, entry in enumerate(index["dst"]):
        if instruction.reset and not instruction.fresh:
            _set(machine, entry, np.zeros_like(machine.acc[entry]))
            continue
        replace = instruction.fresh and (not instruction.reset or number < first)
        total = _products(machine, mode, index["src"][number], index["wgt"][number])
        _set(machine, entry, total if replace else machine.acc[entry] + total)


def _products(machine: Machine, mode: GemmMode, src: int, wgt: int) -> NDArray[Any]:
    inputs = machine.inp[src].astype(np.int32)[None]
    one = np.array([wgt])
    codes = mode.memory == "code"
    weights = machine.term_codes(one) if codes else machine.integer_weights(one)
    return mode.products(inputs, weights.astype(np.int32))[0]


def _alu(machine: Machine, instruction: Instruction) -> None:
    operation = instruction.operation
    index = _micro_ops(machine, instruction)
    parameters = access.parameters(instruction)
    for number, entry in enumerate(index["dst"]):
        src = index["src"][number] if "src" in index else 0
        row = index["wgt"][number] if "wgt" in index else 0
        given = _operands(machine, instruction, operation, src, row)
        new = operation.compute(machine.acc[entry], *given, **parameters)
        _set(machine, entry, wrap(new))


def _operands(
    machine: Machine, instruction: Instruction, operation: AluOperation, src: int, row: int
) -> list[NDArray[Any]]:
    """The operands of one micro-op besides the destination: int32 ``[batch, block]`` each."""
    if operation.source is Source.IMMEDIATE:
        return []
    if instruction.use_imm:
        return [np.full_like(machine.acc[0], instruction.imm)]
    if operation.source is Source.ROWS:
        return [machine.acc[src], machine.acc[src + 1]]
    vector = (machine.inp if instruction.from_inp else machine.acc)[src].astype(np.int32)
    if operation.source is Source.VECTOR or operation.source is Source.OPERAND:
        return [vector]
    slot, lane_row = divmod(row, machine.config.block)
    codes = machine.term_codes(np.array([slot]))[0, lane_row]
    return [vector, np.broadcast_to(codes.astype(np.int32), vector.shape)]


def _finish(machine: Machine, instruction: Instruction) -> None:
    """FINISH changes nothing; whoever runs the program stops."""


_EXECUTE: Final[dict[str, Callable[[Machine, Instruction], None]]] = {
    "LOAD": _load,
    "STORE": _store,
    "GEMM": _gemm,
    "ALU": _alu,
    "FINISH": _finish,
}
