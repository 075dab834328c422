"""The instruction set as one table: the only place that defines an encoding or a meaning.

An instruction is 128 bits, two words of 64, least significant bit first; a micro-op is 32 bits.
Fields are listed from bit 0 up. ``RESERVED`` fills what is left of a word and must be zero. Widths
follow buffer depths, so bit positions depend on the configuration: :mod:`vta_ext.isa.layout`.

What the base configuration has is VTA's own, bit for bit. Extensions use bits, opcodes and memory
ids that are reserved there, and ``reason`` says why each exists. To add an ALU operation, add an
entry to ``ALU_OPERATIONS`` and its function to :mod:`vta_ext.isa.arithmetic`.
"""

from __future__ import annotations

from typing import Any, Final

from vta_ext.isa import arithmetic
from vta_ext.isa.schema import (
    ALU_CODE_BITS,
    RESERVED,
    AluOperation,
    Extension,
    Field,
    GemmMode,
    InstructionKind,
    Memory,
    Module,
    Source,
    Width,
    Word,
)

EXTENSIONS: Final = (
    Extension(
        "fresh",
        "GEMM may replace an accumulator instead of adding to it.",
        "Clearing accumulators by a pass of their own costs a cycle a vector, as much as the "
        "whole requantisation.",
    ),
    Extension(
        "input-source",
        "ALU operations may take their second operand from the input buffer.",
        "Residual additions, pooling and depthwise layers read 8-bit data that the load module "
        "fetches ahead; through the accumulator buffer it would take four times the space, and "
        "the compute module would wait for memory.",
    ),
    Extension(
        "pad-least",
        "A LOAD may pad with the least value instead of 0.",
        "The padding of a max pooling must never win.",
    ),
    Extension(
        "unsigned-input",
        "A LOAD may take its 8-bit lanes as unsigned; the input buffer keeps nine bits a lane.",
        "Activations that are never negative use all eight bits for their size. The load decides, "
        "since GEMM has no bit left; block RAM is nine bits wide anyway.",
    ),
    Extension(
        "prefetch",
        "The load module may run a LOAD of micro-ops.",
        "Compute waits for its own loads, a latency each time; micro-op kernels of the next tile "
        "can come with its inputs. The buffer's second port is free.",
    ),
    Extension(
        "store-acc",
        "STORE may write 32-bit accumulators.",
        "Sums that a network's output or the host reads are not to be rounded to 8 bits.",
    ),
)


MEMORIES: Final = (
    Memory(
        "uop",
        0,
        "uop_bytes",
        "uop_depth",
        "micro-ops",
        Module.COMPUTE,
        prefetch=True,
    ),
    Memory(
        "wgt",
        1,
        "wgt_bytes",
        "wgt_depth",
        "int8 weights [BLOCK (output), BLOCK (input)]",
        Module.LOAD,
        load_needs="wide-weights",
    ),
    Memory(
        "inp",
        2,
        "inp_bytes",
        "inp_depth",
        "int8 or uint8 inputs [BATCH, BLOCK]",
        Module.LOAD,
        signed_lanes=True,
        byte_lanes=True,
    ),
    Memory(
        "acc",
        3,
        "acc_bytes",
        "acc_depth",
        "int32 accumulators [BATCH, BLOCK]",
        Module.COMPUTE,
        store=True,
        store_needs="store-acc",
        signed_lanes=True,
    ),
    Memory(
        "out",
        4,
        "out_bytes",
        "acc_depth",
        "int8 results [BATCH, BLOCK]: the low 8 bits of what GEMM or ALU last wrote to the "
        "accumulator of the same index",
        None,
        store=True,
    ),
    Memory(
        "acc8",
        5,
        "inp_bytes",
        "acc_depth",
        "int8 or uint8 in DRAM, extended into accumulators (VTA's ACC_8BIT)",
        Module.COMPUTE,
        signed_lanes=True,
        byte_lanes=True,
    ),
    Memory(
        "code",
        6,
        "code_bytes",
        "wgt_depth",
        "term codes [BLOCK (output), BLOCK (input)], two a byte, even input in the low nibble; "
        "fill the first bytes of an entry of the weight buffer, the others become 0",
        Module.LOAD,
        load_needs="codes",
    ),
)


_LIMITS: Final[Word] = (
    Field("lo", Width(8), "The least result.", signed=True),
    Field("hi", Width(8), "The greatest result.", signed=True),
)
_UNSIGNED_LIMITS: Final[Word] = (
    Field("lo", Width(8), "The least result."),
    Field("hi", Width(8), "The greatest result."),
)


ALU_OPERATIONS: Final = (
    AluOperation("min", 0, Source.OPERAND, "dst = min(dst, y)", arithmetic.minimum),
    AluOperation("max", 1, Source.OPERAND, "dst = max(dst, y)", arithmetic.maximum),
    AluOperation("add", 2, Source.OPERAND, "dst = dst + y", arithmetic.add),
    AluOperation(
        "shr",
        3,
        Source.OPERAND,
        "dst = dst >> y, rounding down; left where y is negative",
        arithmetic.shift_right,
    ),
    AluOperation("mul", 4, Source.OPERAND, "dst = dst * y, the low 32 bits", arithmetic.multiply),
    AluOperation(
        "rshr",
        8,
        Source.OPERAND,
        "dst = (dst + 2^(y-1)) >> y where y > 0, so halves round up; else dst << -y",
        arithmetic.rounding_shift,
        extension=True,
        reason="The rounding of the integer specification, with a shift a channel where y is a "
        "vector.",
    ),
    AluOperation(
        "sha",
        9,
        Source.VECTOR,
        "dst = dst + (y << shift); minus with subtract; without dst with replace",
        arithmetic.shift_and_add,
        (
            Field("shift", Width(5), "Left shift, 0 to 31."),
            Field("subtract", Width(1), "1: the shifted vector is subtracted."),
            Field("replace", Width(1), "1: the old destination does not count."),
            RESERVED,
        ),
        extension=True,
        reason="Reciprocals of average pooling, residual additions on the finer scale, copies.",
    ),
    AluOperation(
        "absd",
        10,
        Source.OPERAND,
        "dst = |dst - y|",
        arithmetic.absolute_difference,
        extension=True,
        reason="Adder layers that the matrix unit does not fit, depthwise ones among them.",
    ),
    AluOperation(
        "lsa",
        11,
        Source.CODES,
        "dst = dst +- (y << exponent(code)), each lane with its own code; without dst with "
        "replace. The codes are row number (row + wgt of the micro-op) of the weight buffer, "
        "whose entries have BLOCK rows each",
        arithmetic.lane_shift_accumulate,
        (
            Field("row", Width(15), "Row of codes that wgt = 0 stands for."),
            Field("replace", Width(1), "1: the old destination does not count."),
        ),
        extension=True,
        reason="Depthwise layers, a tap a micro-op, and a factor a channel: up to three shifted "
        "copies of an accumulator.",
    ),
    AluOperation(
        "clip",
        12,
        Source.IMMEDIATE,
        "dst = min(max(dst, lo), hi)",
        arithmetic.clip,
        _LIMITS,
        extension=True,
        reason="A saturating narrow in one pass; min and max would be two.",
    ),
    AluOperation(
        "req",
        13,
        Source.ROWS,
        "dst = clip(rshr(dst + acc[src], acc[src + 1]), lo, hi)",
        arithmetic.requantize,
        _LIMITS,
        extension=True,
        reason="Bias, rounding shift and saturation in one pass a vector; four passes would take "
        "a tenth of the time of a 3x3 convolution of 64 channels.",
    ),
    AluOperation(
        "clipu",
        14,
        Source.IMMEDIATE,
        "dst = min(max(dst, lo), hi), limits 0 to 255",
        arithmetic.clip,
        _UNSIGNED_LIMITS,
        extension=True,
        reason="clip for unsigned results.",
    ),
    AluOperation(
        "requ",
        15,
        Source.ROWS,
        "dst = clip(rshr(dst + acc[src], acc[src + 1]), lo, hi), limits 0 to 255",
        arithmetic.requantize,
        _UNSIGNED_LIMITS,
        extension=True,
        reason="req for unsigned results.",
    ),
)


GEMM_MODES: Final = (
    GemmMode(
        "multiply",
        "gemm",
        2,
        "wgt",
        "acc[o] += sum over i of inp[i] * wgt[o, i]",
        arithmetic.multiply_products,
    ),
    GemmMode(
        "shift",
        "gemm.shift",
        5,
        "code",
        "acc[o] += sum over i of +-(inp[i] << exponent(code[o, i]))",
        arithmetic.shift_products,
        "One term of a shift-add weight; a layer of K terms runs as K passes. A processing element "
        "takes less than half the area of a multiplier, a weight half the bytes.",
    ),
    GemmMode(
        "adder",
        "gemm.adder",
        6,
        "wgt",
        "acc[o] += -(sum over i of |inp[i] - wgt[o, i]|)",
        arithmetic.adder_products,
        "AdderNet's layers, with the sign of the integer specification.",
    ),
)


def _flag(name: str, meaning: str, extension: str | None = None) -> Field:
    return Field(name, Width(1), meaning, extension=extension)


_HEADER: Final[Word] = (
    Field("opcode", Width(3), "Which instruction this is."),
    _flag("pop_prev", "Wait for a token from the module before this one."),
    _flag("pop_next", "Wait for a token from the module after this one."),
    _flag("push_prev", "When done, give a token to the module before."),
    _flag("push_next", "When done, give a token to the module after."),
)


def _transfer(extension: Word) -> tuple[Word, Word]:
    return (
        (
            *_HEADER,
            Field("memory", Width(3), "Memory id."),
            Field("sram_base", Width(16), "First element in the buffer."),
            Field("dram_base", Width(32), "First element in DRAM, counted in elements."),
            RESERVED,
            *extension,
        ),
        (
            Field("y_size", Width(16), "Rows."),
            Field("x_size", Width(16), "Elements a row; 0: nothing moves, tokens do."),
            Field("x_stride", Width(16), "Elements from one row in DRAM to the next."),
            Field("y_pad_0", Width(4), "Rows of padding before (LOAD only)."),
            Field("y_pad_1", Width(4), "Rows of padding after (LOAD only)."),
            Field("x_pad_0", Width(4), "Elements of padding before each row (LOAD only)."),
            Field("x_pad_1", Width(4), "Elements of padding after each row (LOAD only)."),
            RESERVED,
        ),
    )


def _loops(first: Field, last: Word) -> Word:
    return (
        *_HEADER,
        first,
        Field("uop_bgn", Width(0, "log_uop_depth"), "First micro-op."),
        Field("uop_end", Width(1, "log_uop_depth"), "One beyond the last micro-op."),
        Field("iter_out", Width(14), "Iterations i of the outer loop."),
        Field("iter_in", Width(14), "Iterations j of the inner loop."),
        RESERVED,
        *last,
    )


def _factors(*operands: tuple[str, str]) -> Word:
    return tuple(
        Field(
            f"{name}_{loop}",
            Width(0, depth),
            f"Added to {name} for each iteration of the {full} loop.",
        )
        for name, depth in operands
        for loop, full in (("out", "outer"), ("in", "inner"))
    )


_GEMM_WORDS: Final = (
    _loops(
        _flag("reset", "See fresh; without it, 1: clear the accumulators, add nothing."),
        (
            _flag(
                "fresh",
                "With reset: 00 add to the accumulators; 01 (reset) clear them; 10 (fresh) "
                "replace them; 11 replace them while i is 0, then add.",
                "fresh",
            ),
        ),
    ),
    (
        *_factors(("dst", "log_acc_depth"), ("src", "log_inp_depth"), ("wgt", "log_wgt_depth")),
        RESERVED,
    ),
)

_GEMM_MEANING: Final = (
    "For i in iter_out, j in iter_in and each micro-op u of [uop_bgn, uop_end): a = u.dst + "
    "i * dst_out + j * dst_in, and in the same way an input from src and a weight from wgt; "
    "{}. The result's low 8 bits go to out[a]."
)

INSTRUCTIONS: Final = (
    InstructionKind(
        "LOAD",
        "load",
        0,
        _transfer(
            (
                _flag("prefetch", "1: the load module runs this LOAD (uop).", "prefetch"),
                _flag("unsigned", "1: lanes are 0 to 255 (inp, acc8).", "unsigned-input"),
                _flag("pad_least", "1: padding is -128, not 0 (inp, acc, acc8).", "pad-least"),
            )
        ),
        "Moves y_size rows of x_size elements from DRAM, x_stride apart, to consecutive entries "
        "of a buffer, and makes the padding around them.",
        suffix="memory",
    ),
    InstructionKind(
        "STORE",
        "store",
        1,
        _transfer(()),
        "Moves consecutive entries of a buffer to y_size rows of x_size elements in DRAM, "
        "x_stride apart. Paddings are 0.",
        suffix="memory",
    ),
    *(
        InstructionKind(
            "GEMM" if mode.opcode == 2 else f"GEMM_{mode.name.upper()}",
            mode.mnemonic,
            mode.opcode,
            _GEMM_WORDS,
            _GEMM_MEANING.format(mode.meaning.replace("acc[o]", "acc[a][o]")),
            needs=mode.name,
            mode=mode,
            reason=mode.reason,
        )
        for mode in GEMM_MODES
    ),
    InstructionKind(
        "FINISH",
        "finish",
        3,
        ((*_HEADER, RESERVED), (RESERVED,)),
        "Ends the program: the compute module tells the host.",
    ),
    InstructionKind(
        "ALU",
        "alu",
        4,
        (
            _loops(
                _flag(
                    "from_inp",
                    "1: the vector at src comes from the input buffer.",
                    "input-source",
                ),
                (_flag("alu_page", "Bit 3 of the operation's code.", "alu-page"),),
            ),
            (
                *_factors(("dst", "log_acc_depth"), ("src", "log_src_depth")),
                Field("alu_op", Width(ALU_CODE_BITS), "Bits 0 to 2 of the operation's code."),
                _flag("use_imm", "1: the second operand is imm."),
                Field("imm", Width(16), "Immediate operand, or parameters.", signed=True),
                RESERVED,
            ),
        ),
        "For i, j and each micro-op as in GEMM: dst = operation(dst, operands), lane by lane; the "
        "result's low 8 bits go to out[dst].",
        suffix="alu_op",
    ),
)

#: Fields of a micro-op.
MICRO_OP: Final[Word] = (
    Field("dst", Width(0, "log_acc_depth"), "Accumulator."),
    Field("src", Width(0, "log_src_depth"), "Input (GEMM), or the ALU's second operand."),
    Field("wgt", Width(0, "log_wgt_depth"), "Weight (GEMM), or row of codes (lsa)."),
    RESERVED,
)


def _by(entries: Any, key: str) -> dict[Any, Any]:
    return {getattr(entry, key): entry for entry in entries}


MEMORY_BY_NAME: Final[dict[str, Memory]] = _by(MEMORIES, "name")
MEMORY_BY_ID: Final[dict[int, Memory]] = _by(MEMORIES, "id")
OPERATION_BY_NAME: Final[dict[str, AluOperation]] = _by(ALU_OPERATIONS, "name")
OPERATION_BY_CODE: Final[dict[int, AluOperation]] = _by(ALU_OPERATIONS, "code")
KIND_BY_NAME: Final[dict[str, InstructionKind]] = _by(INSTRUCTIONS, "name")
KIND_BY_OPCODE: Final[dict[int, InstructionKind]] = _by(INSTRUCTIONS, "opcode")
MODE_BY_NAME: Final[dict[str, GemmMode]] = _by(GEMM_MODES, "name")
