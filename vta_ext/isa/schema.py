"""What the entries of the instruction set's table are made of: plain frozen records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from vta_ext.isa.arithmetic import Int32, Int64

WORD_BITS: Final = 64
INSTRUCTION_BITS: Final = 128
MICRO_OP_BITS: Final = 32
#: Bits of an ALU operation's code that VTA has; extensions add one above them.
ALU_CODE_BITS: Final = 3


@dataclass(frozen=True)
class Width:
    """Bits of a field: ``plus``, and a parameter of the configuration where one is named."""

    plus: int
    parameter: str | None = None

    def __str__(self) -> str:
        if self.parameter is None:
            return str(self.plus)
        return self.parameter.upper() + (f" + {self.plus}" if self.plus else "")


@dataclass(frozen=True)
class Field:
    """One field. ``extension``: the feature that gives these bits a meaning; else reserved."""

    name: str
    width: Width
    meaning: str
    signed: bool = False
    extension: str | None = None


class Reserved(Enum):
    """The bits of a word that no field uses."""

    FILL = "reserved"


RESERVED: Final = Reserved.FILL
Word = tuple[Field | Reserved, ...]

#: The immediate of an operation without parameters: one signed operand.
PLAIN_IMMEDIATE: Final[Word] = (Field("imm", Width(16), "The second operand.", signed=True),)


class Module(Enum):
    """The four modules that work at the same time."""

    FETCH = "fetch"
    LOAD = "load"
    COMPUTE = "compute"
    STORE = "store"


@dataclass(frozen=True, eq=False)
class Extension:
    """A feature beyond VTA that a configuration may have."""

    name: str
    meaning: str
    reason: str


@dataclass(frozen=True, eq=False)
class Memory:
    """A memory id: which buffer a LOAD or STORE moves, in elements of which size.

    ``element`` and ``depth`` name properties of the configuration: bytes of an element in DRAM,
    and elements in the buffer. ``load`` is the module that runs a LOAD of it, or None.
    """

    name: str
    id: int
    element: str
    depth: str
    meaning: str
    load: Module | None
    store: bool = False
    #: Feature that LOAD or STORE of it needs; None: VTA has it.
    load_needs: str | None = None
    store_needs: str | None = None
    #: Whether its lanes are signed numbers, so that padding with the least value makes sense.
    signed_lanes: bool = False
    #: Whether its lanes are bytes in DRAM that are extended when they are loaded.
    byte_lanes: bool = False
    #: Whether the load module may run its LOAD instead, where the instruction says so.
    prefetch: bool = False


class Source(Enum):
    """Where an ALU operation takes its operands from, besides the destination."""

    OPERAND = "the vector at src, or imm in every lane where use_imm is 1"
    VECTOR = "the vector at src; use_imm is 0 and imm holds parameters"
    ROWS = "the accumulators at src and src + 1; use_imm is 0 and imm holds parameters"
    CODES = "the vector at src and a row of BLOCK term codes; use_imm is 0"
    IMMEDIATE = "imm alone; use_imm is 1"


@dataclass(frozen=True, eq=False)
class AluOperation:
    """One ALU operation: its code, operands, meaning, and the function that defines it.

    ``compute(dst, *operands, **parameters)`` takes lanes and gives the new destination as exact
    int64, of which the machine keeps the low 32 bits. Parameters are the fields of ``immediate``,
    unless that is the operand itself; with a parameter ``replace`` of 1 the old destination does
    not matter.
    """

    name: str
    code: int
    source: Source
    meaning: str
    compute: Callable[..., Int64]
    immediate: Word = PLAIN_IMMEDIATE
    extension: bool = False
    reason: str = ""


@dataclass(frozen=True, eq=False)
class GemmMode:
    """What one matrix instruction adds up; ``products`` defines it on ``[n, b, i]``, ``[n, o, i]``.

    ``memory`` names what the weight buffer must have been loaded with.
    """

    name: str
    mnemonic: str
    opcode: int
    memory: str
    meaning: str
    products: Callable[..., Int32]
    reason: str = ""


@dataclass(frozen=True, eq=False)
class InstructionKind:
    """One kind of instruction: opcode, fields, and what it does.

    ``suffix`` names the field that the mnemonic's second part spells. ``needs`` is a feature.
    """

    name: str
    mnemonic: str
    opcode: int
    words: tuple[Word, Word]
    meaning: str
    suffix: str | None = None
    needs: str | None = None
    mode: GemmMode | None = None
    reason: str = ""

    def __repr__(self) -> str:
        return f"<{self.name}>"
