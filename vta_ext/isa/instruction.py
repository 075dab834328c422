"""Instructions and micro-ops as values, and one constructor for each kind of instruction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ProgramError
from vta_ext.isa import table
from vta_ext.isa.schema import (
    ALU_CODE_BITS,
    AluOperation,
    Field,
    InstructionKind,
    Memory,
    Module,
    Source,
)
from vta_ext.isa.table import (
    KIND_BY_NAME,
    MEMORY_BY_ID,
    MEMORY_BY_NAME,
    MODE_BY_NAME,
    OPERATION_BY_CODE,
    OPERATION_BY_NAME,
)

#: The fields of a header that move tokens, in order of their bits.
TOKENS: Final = ("pop_prev", "pop_next", "push_prev", "push_next")

#: int32 ``[n, 3]``: dst, src, wgt of n micro-ops.
MicroOps = NDArray[np.int32]


@cache
def field_names(kind: InstructionKind) -> tuple[str, ...]:
    """Names of all fields of ``kind`` but the opcode, from bit 0 up."""
    entries = (entry for word in kind.words for entry in word if isinstance(entry, Field))
    return tuple(entry.name for entry in entries if entry.name != "opcode")


@cache
def _positions(kind: InstructionKind) -> dict[str, int]:
    return {name: position for position, name in enumerate(field_names(kind))}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its kind and the value of each field, in the order of ``field_names``.

    Fields read as attributes: ``instruction.uop_bgn``. Values are checked against a configuration
    when the instruction is encoded, assembled or put into a program.
    """

    kind: InstructionKind
    values: tuple[int, ...]

    def __getattr__(self, name: str) -> int:
        try:
            return self.values[_positions(self.kind)[name]]
        except KeyError:
            raise AttributeError(f"{self.kind.name} has no field {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        # Entries of the table are told apart by identity, so copies must share them.
        return _restore, (self.kind.name, self.values)

    def __str__(self) -> str:
        from vta_ext.isa.assembly import format_instruction

        return format_instruction(self)

    def to_dict(self) -> dict[str, int]:
        """Value of each field."""
        return dict(zip(field_names(self.kind), self.values, strict=True))

    def replace(self, **values: int) -> Instruction:
        """The same instruction with other values; ProgramError for a field it does not have."""
        return make(self.kind, **{**self.to_dict(), **values})

    @property
    def memory_type(self) -> Memory:
        """What a LOAD or STORE moves; ProgramError for an id that is not one."""
        found = MEMORY_BY_ID.get(self.memory)
        if found is None:
            raise ProgramError(f"memory id {self.memory} is reserved; ids are 0 to 6")
        return found

    @property
    def operation(self) -> AluOperation:
        """The operation of an ALU instruction; ProgramError for a code that is not one."""
        code = (self.alu_page << ALU_CODE_BITS) | self.alu_op
        found = OPERATION_BY_CODE.get(code)
        if found is None:
            raise ProgramError(f"ALU operation {code} is reserved")
        return found

    @property
    def module(self) -> Module:
        """The module that runs it. ProgramError for a LOAD that no module can run."""
        if self.kind.name == "STORE":
            return Module.STORE
        if self.kind.name == "LOAD":
            module = Module.LOAD if self.prefetch else self.memory_type.load
            if module is None:
                raise ProgramError(f"memory {self.memory_type.name} cannot be loaded")
            return module
        return Module.COMPUTE


def _restore(name: str, values: tuple[int, ...]) -> Instruction:
    return Instruction(KIND_BY_NAME[name], values)


def make(kind: InstructionKind, **values: int) -> Instruction:
    """An instruction of ``kind``; fields that are not given are 0. ProgramError for others."""
    positions = _positions(kind)
    filled = [0] * len(positions)
    for name, value in values.items():
        if name not in positions:
            raise ProgramError(
                f"{kind.name} has no field {name!r}; its fields are {', '.join(positions)}"
            )
        filled[positions[name]] = int(value)
    return Instruction(kind, tuple(filled))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Which tokens an instruction waits for before it starts and gives when it is done.

    ``prev`` and ``next`` are the neighbours in the order load, compute, store.
    """

    pop_prev: bool = False
    pop_next: bool = False
    push_prev: bool = False
    push_next: bool = False

    def to_dict(self) -> dict[str, int]:
        """The four header fields."""
        return {name: int(getattr(self, name)) for name in TOKENS}


NO_TOKENS: Final = Tokens()


def _memory(name: str) -> Memory:
    if name not in MEMORY_BY_NAME:
        raise ProgramError(f"no memory {name!r}; memories are {', '.join(MEMORY_BY_NAME)}")
    return MEMORY_BY_NAME[name]


def load(
    memory: str,
    *,
    sram_base: int,
    dram_base: int,
    x_size: int,
    y_size: int = 1,
    x_stride: int | None = None,
    y_pad: tuple[int, int] = (0, 0),
    x_pad: tuple[int, int] = (0, 0),
    prefetch: bool = False,
    unsigned: bool = False,
    pad_least: bool = False,
    tokens: Tokens = NO_TOKENS,
) -> Instruction:
    """LOAD ``y_size`` rows of ``x_size`` elements, padded by (before, after) along y and x.

    ``memory`` is a name of the table: uop, wgt, code, inp, acc, acc8. Bases and sizes count
    elements; ``x_stride`` is the distance of rows in DRAM, ``x_size`` if not given. ``unsigned``
    lanes (inp, acc8) are 0 to 255; ``pad_least`` pads with -128 instead of 0. With ``prefetch``
    the load module loads micro-ops, so that compute need not wait for them.
    """
    return make(
        KIND_BY_NAME["LOAD"],
        **tokens.to_dict(),
        memory=_memory(memory).id,
        sram_base=sram_base,
        dram_base=dram_base,
        y_size=y_size,
        x_size=x_size,
        x_stride=x_size if x_stride is None else x_stride,
        y_pad_0=y_pad[0],
        y_pad_1=y_pad[1],
        x_pad_0=x_pad[0],
        x_pad_1=x_pad[1],
        prefetch=prefetch,
        unsigned=unsigned,
        pad_least=pad_least,
    )


def store(
    memory: str = "out",
    *,
    sram_base: int,
    dram_base: int,
    x_size: int,
    y_size: int = 1,
    x_stride: int | None = None,
    tokens: Tokens = NO_TOKENS,
) -> Instruction:
    """STORE consecutive entries of ``memory``, out or acc, as rows; see :func:`load`."""
    return make(
        KIND_BY_NAME["STORE"],
        **tokens.to_dict(),
        memory=_memory(memory).id,
        sram_base=sram_base,
        dram_base=dram_base,
        y_size=y_size,
        x_size=x_size,
        x_stride=x_size if x_stride is None else x_stride,
    )


#: What GEMM does with the accumulators' old values: the bits (reset, fresh).
ACCUMULATE: Final = {"add": (0, 0), "clear": (1, 0), "replace": (0, 1), "replace-first": (1, 1)}


def gemm(
    mode: str,
    *,
    uops: tuple[int, int],
    loops: tuple[int, int] = (1, 1),
    dst: tuple[int, int] = (0, 0),
    src: tuple[int, int] = (0, 0),
    wgt: tuple[int, int] = (0, 0),
    accumulate: str = "add",
    tokens: Tokens = NO_TOKENS,
) -> Instruction:
    """GEMM of ``mode`` (multiply, shift, adder) over micro-ops [first, last) of the buffer.

    ``loops`` are (outer, inner) iterations; ``dst``, ``src``, ``wgt`` what each adds to the
    micro-op's index. ``accumulate``: add; clear (no products); replace; replace-first, which
    replaces in the first outer iteration and adds in the others.
    """
    if mode not in MODE_BY_NAME or accumulate not in ACCUMULATE:
        raise ProgramError(
            f"no GEMM of mode {mode!r} and accumulate {accumulate!r}; modes are "
            f"{', '.join(MODE_BY_NAME)}, accumulate is one of {', '.join(ACCUMULATE)}"
        )
    reset, fresh = ACCUMULATE[accumulate]
    kind = next(k for k in table.INSTRUCTIONS if k.mode is MODE_BY_NAME[mode])
    return make(
        kind,
        **tokens.to_dict(),
        reset=reset,
        fresh=fresh,
        **_loop_fields(uops, loops, dst=dst, src=src, wgt=wgt),
    )


def alu(
    operation: str,
    *,
    uops: tuple[int, int],
    loops: tuple[int, int] = (1, 1),
    dst: tuple[int, int] = (0, 0),
    src: tuple[int, int] = (0, 0),
    from_inp: bool = False,
    tokens: Tokens = NO_TOKENS,
    **immediate: int,
) -> Instruction:
    """ALU operation of that name; loops and factors as in :func:`gemm`.

    ``immediate``: for an operation whose second operand may be one, ``imm=`` makes it so; else
    the parameters that the table gives it, for instance ``lo=-128, hi=127`` of clip and req.
    """
    if operation not in OPERATION_BY_NAME:
        raise ProgramError(
            f"no ALU operation {operation!r}; they are {', '.join(OPERATION_BY_NAME)}"
        )
    entry = OPERATION_BY_NAME[operation]
    scalar = entry.source is Source.IMMEDIATE or (
        entry.source is Source.OPERAND and bool(immediate)
    )
    return make(
        KIND_BY_NAME["ALU"],
        **tokens.to_dict(),
        from_inp=from_inp,
        alu_page=entry.code >> ALU_CODE_BITS,
        alu_op=entry.code & ((1 << ALU_CODE_BITS) - 1),
        use_imm=scalar,
        imm=pack_immediate(entry, immediate),
        **_loop_fields(uops, loops, dst=dst, src=src),
    )


def finish(tokens: Tokens = NO_TOKENS) -> Instruction:
    """FINISH, the last instruction of a program."""
    return make(KIND_BY_NAME["FINISH"], **tokens.to_dict())


def _loop_fields(
    uops: tuple[int, int], loops: tuple[int, int], **factors: tuple[int, int]
) -> dict[str, int]:
    found = {"uop_bgn": uops[0], "uop_end": uops[1], "iter_out": loops[0], "iter_in": loops[1]}
    for name, (outer, inner) in factors.items():
        found |= {f"{name}_out": outer, f"{name}_in": inner}
    return found


def _immediate_fields(operation: AluOperation) -> list[tuple[Field, int]]:
    """The fields of an immediate and their lowest bits; their widths are plain numbers."""
    found, low = [], 0
    for entry in operation.immediate:
        if isinstance(entry, Field):
            found.append((entry, low))
            low += entry.width.plus
    return found


def pack_immediate(operation: AluOperation, values: dict[str, int]) -> int:
    """The signed 16 bits that hold ``values``; ProgramError for a wrong name or size."""
    fields = _immediate_fields(operation)
    unknown = set(values) - {field.name for field, _ in fields}
    if unknown:
        raise ProgramError(
            f"{operation.name} has no parameter {sorted(unknown)[0]!r}; it takes "
            f"{', '.join(field.name for field, _ in fields)}"
        )
    word = 0
    for field, low in fields:
        value, width = int(values.get(field.name, 0)), field.width.plus
        least = -(1 << (width - 1)) if field.signed else 0
        if not least <= value < least + (1 << width):
            raise ProgramError(
                f"{field.name} of {operation.name} must be {least} to {least + (1 << width) - 1}, "
                f"not {value}"
            )
        word |= (value & ((1 << width) - 1)) << low
    return word - 65536 if word >= 32768 else word


def unpack_immediate(operation: AluOperation, imm: int) -> dict[str, int]:
    """The parameters in an immediate; ProgramError where a reserved bit of it is set."""
    word, found, used = imm & 0xFFFF, {}, 0
    for field, low in _immediate_fields(operation):
        width = field.width.plus
        value = (word >> low) & ((1 << width) - 1)
        negative = field.signed and value >> (width - 1)
        found[field.name] = value - (1 << width) if negative else value
        used |= ((1 << width) - 1) << low
    if word & ~used:
        raise ProgramError(f"reserved bits of the immediate of {operation.name} are set: {imm}")
    return found


def micro_ops(rows: Any) -> MicroOps:
    """Micro-ops from anything that makes an integer array ``[n, 3]`` of dst, src, wgt."""
    found = np.asarray(rows)
    if found.size == 0:
        return np.zeros((0, 3), np.int32)
    if found.ndim != 2 or found.shape[1] != 3 or found.dtype.kind not in "iu":
        raise ProgramError(
            f"micro-ops must be integers [n, 3] (dst, src, wgt), not {found.dtype} "
            f"{list(found.shape)}"
        )
    return found.astype(np.int32)
