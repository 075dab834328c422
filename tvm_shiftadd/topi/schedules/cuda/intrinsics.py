"""CUDA's instructions for packed bytes, as calls that TensorIR can make.

What CUDA C++ has a function for is called by that; the rest are one-line device functions
``shiftadd_asm_*`` around one PTX instruction, which another compiler can be given instead of.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

#: Bytes of a 32-bit word: what an instruction of four products takes.
QUAD = 4
#: Threads that execute an instruction together.
WARP = 32
#: The bytes of a word with only their top bits set.
TOP_BITS = -0x7F7F7F80
_FUNCTION = "static __device__ __forceinline__ "

_DOT_MIXED = (
    _FUNCTION + "int shiftadd_asm_dp4a_us(unsigned a, int b, int c) "
    '{ int d; asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c)); return d; }\n'
)
_ABSOLUTE = (
    _FUNCTION + "int shiftadd_asm_absdiff4(unsigned a, unsigned b, int c) "
    '{ int d; asm("vabsdiff4.u32.u32.u32.add %0, %1, %2, %3;" '
    ': "=r"(d) : "r"(a), "r"(b), "r"(c)); return d; }\n'
)
_NAMES = {"int8": "s", "uint8": "u"}
_MMA = (
    _FUNCTION + "void shiftadd_asm_mma_{x}s(int* d, const unsigned* a, const unsigned* b) "
    '{{ asm("mma.sync.aligned.m16n8k32.row.col.s32.{x}8.s8.s32 {{%0,%1,%2,%3}}, {{%4,%5,%6,%7}}, '
    '{{%8,%9}}, {{%0,%1,%2,%3}};" : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) '
    ': "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); }}\n'
)
_LOAD_MATRIX = (
    _FUNCTION + "void shiftadd_asm_ldmatrix_x4(unsigned* r, const void* p) "
    '{ asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" '
    ': "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) '
    ': "r"((unsigned)__cvta_generic_to_shared(p)) : "memory"); }\n'
)
_COPY = (
    _FUNCTION + "void shiftadd_asm_cp_async16(void* to, const void* from, int bytes) "
    '{ asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" '
    ': : "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes) : "memory"); }\n'
)
_COMMIT = (
    _FUNCTION + "void shiftadd_asm_cp_commit() "
    '{ asm volatile("cp.async.commit_group;" : : : "memory"); }\n'
)
_WAIT = (
    "template <int n> " + _FUNCTION + "void shiftadd_asm_cp_wait() "
    '{ asm volatile("cp.async.wait_group %0;" : : "n"(n) : "memory"); }\n'
)
_PACK = (
    _FUNCTION + "unsigned shiftadd_pack4(int a, int b, int c, int d) "
    "{ return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410); }\n"
)
# A byte_perm looks up four bytes in eight by the low three bits of a nibble each; with the fourth
# bit it repeats the byte's top bit instead. So magnitudes and their negatives are looked up with
# the sign bits cleared, and a third one takes from each pair what the sign bit says.
_DECODE = (
    _FUNCTION + "int shiftadd_decode4(unsigned codes) "
    "{ unsigned m = codes & 0x7777u; "
    "return __byte_perm(__byte_perm(0x04020100u, 0x40201008u, m), "
    "__byte_perm(0xfcfeff00u, 0xc0e0f0f8u, m), ((codes >> 1) & 0x4444u) | 0x3210u); }\n"
)
# Without the selection: of the codes that have no sign bit the magnitude, of others the top bit of
# a magnitude, which is zero. Called with the sign bits turned it gives those of negative terms.
_MAGNITUDES = (
    _FUNCTION + "int shiftadd_magnitudes4(unsigned codes) "
    "{ return __byte_perm(0x04020100u, 0x40201008u, codes); }\n"
)


def dot(inputs: Any, weights: Any, total: Any, dtype: str) -> Any:
    """``total`` plus four products of input bytes of ``dtype`` and int8 weights; all int32."""
    if dtype == "int8":
        return T.cuda.func_call(
            "__dp4a", inputs, weights, total, source_code="", return_type="int32"
        )
    name = "shiftadd_asm_dp4a_us"
    inputs = T.reinterpret(inputs, dtype="uint32")
    return T.cuda.func_call(
        name, inputs, weights, total, source_code=_DOT_MIXED, return_type="int32"
    )


def distance(inputs: Any, weights: Any, total: Any) -> Any:
    """``total`` plus the absolute differences of four pairs of unsigned bytes; all int32."""
    inputs, weights = (T.reinterpret(word, dtype="uint32") for word in (inputs, weights))
    name = "shiftadd_asm_absdiff4"
    return T.cuda.func_call(
        name, inputs, weights, total, source_code=_ABSOLUTE, return_type="int32"
    )


def decode(codes: Any) -> Any:
    """Four int8 weights, an int32, from the four codes in the low half of an int32."""
    codes = T.reinterpret(codes, dtype="uint32")
    return T.cuda.func_call("shiftadd_decode4", codes, source_code=_DECODE, return_type="int32")


def magnitudes(codes: Any) -> Any:
    """Four bytes, an int32: the weights of positive terms, zero for negative ones."""
    codes = T.reinterpret(codes, dtype="uint32")
    return T.cuda.func_call(
        "shiftadd_magnitudes4", codes, source_code=_MAGNITUDES, return_type="int32"
    )


def pack(values: Any) -> Any:
    """uint32 of the low bytes of four int32."""
    return T.cuda.func_call("shiftadd_pack4", *values, source_code=_PACK, return_type="uint32")


def matrix_product(sums: Any, inputs: Any, weights: Any, dtype: str) -> None:
    """Add a product of 16x32 input bytes and 32x8 weights, spread over a warp.

    The operands are addresses of 4 int32 sums, 4 words of inputs and 2 of weights of a thread, laid
    out as PTX has it for mma.m16n8k32.
    """
    kind = _NAMES[dtype]
    name = f"shiftadd_asm_mma_{kind}s"
    T.evaluate(T.cuda.func_call(name, sums, inputs, weights, source_code=_MMA.format(x=kind)))


def load_matrix(words: Any, row: Any) -> None:
    """Four 8x8 matrices of 16 bits to the four words at ``words`` of each thread of a warp.

    ``row`` is the address in shared memory of the 16 bytes of row ``lane % 8`` of matrix
    ``lane / 8``.
    """
    T.evaluate(T.cuda.func_call("shiftadd_asm_ldmatrix_x4", words, row, source_code=_LOAD_MATRIX))


def copy(to: Any, source: Any, size: Any) -> None:
    """Begin to copy ``size`` bytes, 16 or 0, to shared memory; zeros fill the rest of 16."""
    T.evaluate(T.cuda.func_call("shiftadd_asm_cp_async16", to, source, size, source_code=_COPY))


def commit() -> None:
    """End a group of copies."""
    T.evaluate(T.cuda.func_call("shiftadd_asm_cp_commit", source_code=_COMMIT))


def wait(left: int) -> None:
    """Wait until all but the last ``left`` groups of this thread's copies are there."""
    T.evaluate(T.cuda.func_call(f"shiftadd_asm_cp_wait<{left}>", source_code=_WAIT))
