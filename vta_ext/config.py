"""The configuration of one machine: sizes, arithmetic, features; validated, loaded, hashed.

Names and meaning of the ``LOG_`` parameters are VTA's (each is the base-2 logarithm of its
quantity), so that a ``vta_config.json`` loads as it is. Presets are in :mod:`vta_ext.presets`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats.codes import CODE_BITS
from vta_ext.isa.schema import MICRO_OP_BITS, WORD_BITS, Field
from vta_ext.isa.table import ALU_OPERATIONS, EXTENSIONS, GEMM_MODES, INSTRUCTIONS, MICRO_OP

#: Changes whenever a program of an older version would mean something else.
ISA_VERSION: Final = 1

#: Keys of VTA's JSON that say nothing about the machine's arithmetic or encoding.
_IGNORED: Final = frozenset({"TARGET", "HW_VER"})


def _names(entries: Any) -> tuple[str, ...]:
    return tuple(entry.name for entry in entries)


@dataclass(frozen=True)
class Config:
    """One machine. Sizes are logarithms to base 2; widths in bits, buffers in bytes.

    Raises InputError where the values do not make a machine that fits its own encoding.
    """

    #: Bits of an input, an integer weight, an accumulator: 2**3, 2**3, 2**5.
    log_inp_width: int = 3
    log_wgt_width: int = 3
    log_acc_width: int = 5
    #: Rows of an input; and channels of an input, which is also channels of an output.
    log_batch: int = 0
    log_block: int = 4
    #: Bytes of each buffer. The output buffer has an entry for each accumulator.
    log_uop_buff_size: int = 15
    log_inp_buff_size: int = 15
    log_wgt_buff_size: int = 18
    log_acc_buff_size: int = 17
    #: Bits of a term code, 0 for a machine that knows none.
    wgt_code_width: int = 0
    #: What the matrix unit and the ALU can do, and features beyond VTA: names of the ISA's table.
    gemm_modes: tuple[str, ...] = ("multiply",)
    alu_ops: tuple[str, ...] = ("min", "max", "add", "shr", "mul")
    extensions: tuple[str, ...] = ()
    #: Micro-ops after which a written accumulator may be read or written again: the depth of the
    #: pipeline. There is no interlock; the checker holds programs to it.
    acc_latency: int = 4
    #: Instructions that may wait in front of each module, and tokens in each queue: 2**6.
    log_queue_depth: int = 6

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _LISTS:
                self._set_names(field.name, value, _names(_LISTS[field.name]))
            elif type(value) is not int or not 0 <= value <= 32:
                raise InputError(
                    f"{field.name.upper()} must be a whole number from 0 to 32, not {value!r}"
                )
        self._check_arithmetic()
        self._check_buffers()
        self._check_encoding()

    def _set_names(self, name: str, value: Any, known: tuple[str, ...]) -> None:
        """Check a list of names and bring it into the table's order, so that equal sets hash so."""
        if isinstance(value, str) or not all(isinstance(item, str) for item in value):
            raise InputError(f"{name.upper()} must be a list of names, not {value!r}")
        unknown = sorted(set(value) - set(known))
        if unknown or len(set(value)) != len(value):
            problem = f"unknown {', '.join(unknown)}" if unknown else "a repeated name"
            raise InputError(f"{name.upper()} has {problem}; the names are {', '.join(known)}")
        object.__setattr__(self, name, tuple(item for item in known if item in value))

    def _check_arithmetic(self) -> None:
        widths = (self.log_inp_width, self.log_wgt_width, self.log_acc_width)
        if widths != (3, 3, 5):
            raise InputError(
                "LOG_INP_WIDTH, LOG_WGT_WIDTH, LOG_ACC_WIDTH must be 3, 3, 5 (8-bit operands, "
                f"32-bit accumulators), not {widths[0]}, {widths[1]}, {widths[2]}"
            )
        if self.log_block not in range(1, 7) or self.log_batch > 4:
            raise InputError(
                f"LOG_BLOCK must be 1 to 6 and LOG_BATCH 0 to 4, not {self.log_block} and "
                f"{self.log_batch}"
            )
        if not self.gemm_modes:
            raise InputError(f"GEMM_MODES must name one of {', '.join(_names(GEMM_MODES))}")
        needs_codes = "shift" in self.gemm_modes or "lsa" in self.alu_ops
        if self.wgt_code_width != (CODE_BITS if needs_codes else 0):
            raise InputError(
                f"WGT_CODE_WIDTH must be {CODE_BITS} with mode shift or operation lsa and 0 "
                f"without, not {self.wgt_code_width}"
            )
        if self.acc_latency not in range(1, 17):
            raise InputError(f"ACC_LATENCY must be 1 to 16, not {self.acc_latency}")
        if self.log_queue_depth > 12:
            raise InputError(f"LOG_QUEUE_DEPTH must be 0 to 12, not {self.log_queue_depth}")

    def _check_buffers(self) -> None:
        depths = {
            "LOG_UOP_BUFF_SIZE": self.log_uop_depth,
            "LOG_INP_BUFF_SIZE": self.log_inp_depth,
            "LOG_WGT_BUFF_SIZE": self.log_wgt_depth,
            "LOG_ACC_BUFF_SIZE": self.log_acc_depth,
        }
        for name, depth in depths.items():
            if not 1 <= depth <= 16:
                raise InputError(
                    f"{name} must make a buffer of 2 to 65536 entries, not of 2^{depth}"
                )
        if "lsa" in self.alu_ops and self.log_wgt_depth + self.log_block > 15:
            raise InputError(
                "operation lsa reaches 32768 rows of codes; LOG_WGT_BUFF_SIZE makes "
                f"2^{self.log_wgt_depth + self.log_block}, so choose a smaller one"
            )

    def _check_encoding(self) -> None:
        """Every word of the table must hold its fields."""
        words = [("a micro-op", MICRO_OP, MICRO_OP_BITS)]
        for kind in INSTRUCTIONS:
            if self.has(kind.needs):
                words += [
                    (f"word {number} of {kind.name}", word, WORD_BITS)
                    for number, word in enumerate(kind.words)
                ]
        for what, word, limit in words:
            bits = sum(
                self.width(entry)
                for entry in word
                if isinstance(entry, Field) and self.has(entry.extension)
            )
            if bits > limit:
                raise InputError(
                    f"{what} needs {bits} bits of {limit} with {self.depths}; "
                    "choose smaller buffers or a larger block"
                )

    def width(self, field: Field) -> int:
        """Bits of a field of the table on this machine."""
        parameter = field.width.parameter
        return field.width.plus + (getattr(self, parameter) if parameter else 0)

    @property
    def depths(self) -> str:
        """The sizes of the buffers in words."""
        depths = (self.uop_depth, self.inp_depth, self.wgt_depth, self.acc_depth)
        names = ("micro-ops", "inputs", "weights", "accumulators")
        return ", ".join(f"{depth} {name}" for depth, name in zip(depths, names, strict=True))

    # What follows from the parameters.

    @property
    def batch(self) -> int:
        """Rows of an input element and of an accumulator element."""
        return 1 << self.log_batch

    @property
    def block(self) -> int:
        """Channels of an element: lanes of the ALU, both sides of the matrix unit."""
        return 1 << self.log_block

    @property
    def macs_per_cycle(self) -> int:
        """Products, shifted terms or distances that one GEMM micro-op adds up."""
        return self.batch * self.block * self.block

    @property
    def uop_bytes(self) -> int:
        """Bytes of a micro-op."""
        return 4

    @property
    def inp_bytes(self) -> int:
        """Bytes of an input element, [batch, block] int8."""
        return self.batch * self.block

    @property
    def out_bytes(self) -> int:
        """Bytes of an output element, [batch, block] int8."""
        return self.inp_bytes

    @property
    def acc_bytes(self) -> int:
        """Bytes of an accumulator element, [batch, block] int32."""
        return 4 * self.inp_bytes

    @property
    def wgt_bytes(self) -> int:
        """Bytes of an element of integer weights, [block, block] int8."""
        return self.block * self.block

    @property
    def code_bytes(self) -> int:
        """Bytes of an element of term codes, [block, block] of 4 bits."""
        return self.block * self.block // 2

    @property
    def wgt_slot_bytes(self) -> int:
        """Bytes of an entry of the weight buffer: of the widest weights this machine has."""
        return self.wgt_bytes if self.has("wide-weights") else self.code_bytes

    @cached_property
    def log_uop_depth(self) -> int:
        """Logarithm of the entries of the micro-op buffer; the next ones likewise."""
        return self.log_uop_buff_size - 2

    @cached_property
    def log_inp_depth(self) -> int:
        """Logarithm of the entries of the input buffer."""
        return self.log_inp_buff_size - self.log_batch - self.log_block

    @cached_property
    def log_wgt_depth(self) -> int:
        """Logarithm of the entries of the weight buffer."""
        return self.log_wgt_buff_size - self.wgt_slot_bytes.bit_length() + 1

    @cached_property
    def log_acc_depth(self) -> int:
        """Logarithm of the entries of the accumulator and output buffers."""
        return self.log_acc_buff_size - 2 - self.log_batch - self.log_block

    @cached_property
    def log_src_depth(self) -> int:
        """Bits of a source index: it may mean an input or an accumulator."""
        return max(self.log_inp_depth, self.log_acc_depth)

    @property
    def uop_depth(self) -> int:
        """Entries of the micro-op buffer; the next ones likewise."""
        return 1 << self.log_uop_depth

    @property
    def inp_depth(self) -> int:
        """Entries of the input buffer."""
        return 1 << self.log_inp_depth

    @property
    def wgt_depth(self) -> int:
        """Entries of the weight buffer."""
        return 1 << self.log_wgt_depth

    @property
    def acc_depth(self) -> int:
        """Entries of the accumulator buffer and of the output buffer."""
        return 1 << self.log_acc_depth

    @property
    def queue_depth(self) -> int:
        """Instructions that may wait in front of each module, and tokens in each queue."""
        return 1 << self.log_queue_depth

    @cached_property
    def features(self) -> frozenset[str]:
        """Everything a field, memory or instruction of the table may need."""
        found = {*self.extensions, *self.gemm_modes}
        if {"multiply", "adder"} & found:
            found.add("wide-weights")
        if self.wgt_code_width:
            found.add("codes")
        if any(op.extension for op in ALU_OPERATIONS if op.name in self.alu_ops):
            found.add("alu-page")
        return frozenset(found)

    def has(self, feature: str | None) -> bool:
        """Whether this machine has a feature; None stands for what every machine has."""
        return feature is None or feature in self.features

    # Files and identity.

    def to_dict(self) -> dict[str, Any]:
        """The parameters under the names of the JSON file."""
        values = {field.name.upper(): getattr(self, field.name) for field in fields(self)}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The configuration of a JSON object; what it leaves out is VTA's default.

        Raises InputError for an unknown key or a value that is not allowed.
        """
        known = {field.name.upper(): field.name for field in fields(cls)}
        unknown = sorted(set(values) - set(known) - _IGNORED)
        if unknown:
            raise InputError(
                f"a configuration has no {unknown[0]!r}; the keys are {', '.join(known)}"
            )
        chosen = {known[key]: value for key, value in values.items() if key in known}
        for name in _LISTS.keys() & chosen.keys():
            if not isinstance(chosen[name], (list, tuple)):
                raise InputError(f"{name.upper()} must be a list of names, not {chosen[name]!r}")
            chosen[name] = tuple(chosen[name])
        return cls(**chosen)

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits: equal for machines that run the same programs in the same way."""
        text = json.dumps({"ISA": ISA_VERSION, **self.to_dict()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_LISTS: Final[dict[str, Any]] = {
    "gemm_modes": GEMM_MODES,
    "alu_ops": ALU_OPERATIONS,
    "extensions": EXTENSIONS,
}


def load(path: str | Path) -> Config:
    """Read a configuration from a JSON file; VTA's own ``vta_config.json`` is one.

    Raises InputError, naming the file, where it cannot be read or is not a configuration.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold one JSON object of parameters, not {values!r:.40}")
    try:
        return Config.from_dict(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def save(config: Config, path: str | Path) -> None:
    """Write a configuration as a JSON file that :func:`load` reads."""
    Path(path).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
