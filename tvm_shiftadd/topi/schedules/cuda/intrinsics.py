"""CUDA's instructions for packed bytes, as calls that TensorIR can make.

What CUDA C++ has a function for is called by that; the rest are one-line device functions
``shiftadd_asm_*`` around one PTX instruction, which another compiler can be given instead of.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from tvm_shiftadd._compat import tirx

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
# TVM writes a source once for each name, and the name of each instance is another.
_WAIT = (
    "#ifndef SHIFTADD_ASM_CP_WAIT\n#define SHIFTADD_ASM_CP_WAIT\n"
    "template <int n> " + _FUNCTION + "void shiftadd_asm_cp_wait() "
    '{ asm volatile("cp.async.wait_group %0;" : : "n"(n) : "memory"); }\n#endif\n'
)
# Not __byte_perm, which clears the fourth bit of every selector.
_PERMUTE = (
    _FUNCTION + "unsigned shiftadd_asm_prmt(unsigned a, unsigned b, unsigned s) "
    '{ unsigned d; asm("prmt.b32 %0, %1, %2, %3;" '
    ': "=r"(d) : "r"(a), "r"(b), "r"(s)); return d; }\n'
)
#: The magnitudes of codes 0 to 3 and 4 to 7, and their negatives.
_POSITIVE = (0x04020100, 0x40201008)
_NEGATIVE = (0xFCFEFF00, 0xC0E0F0F8)


def keep_whole(buffer: Any) -> None:
    """Have TVM allocate all of a buffer whose parts instructions take by address.

    It makes a buffer no larger than the elements that it sees accessed, and of such a part that is
    the first one. What is read here is not used, and no code is made of it.
    """
    T.evaluate(buffer[int(buffer.shape[0]) - 1])


def dot(inputs: Any, weights: Any, total: Any, dtype: str) -> Any:
    """``total`` plus four products of input bytes of ``dtype`` and int8 weights; all int32."""
    if dtype == "int8":
        return T.cuda.func_call(
            "__dp4a", inputs, weights, total, source_code="", return_type="int32"
        )
    name = "shiftadd_asm_dp4a_us"
    return T.cuda.func_call(
        name, inputs, weights, total, source_code=_DOT_MIXED, return_type="int32"
    )


def distance(inputs: Any, weights: Any, total: Any) -> Any:
    """``total`` plus the absolute differences of four pairs of unsigned bytes; all int32."""
    name = "shiftadd_asm_absdiff4"
    return T.cuda.func_call(
        name, inputs, weights, total, source_code=_ABSOLUTE, return_type="int32"
    )


def permute(low: Any, high: Any, selector: Any) -> Any:
    """uint32: four of the eight bytes of ``low`` and ``high``, one for each nibble of 16 bits.

    The three low bits of a nibble say which byte; where the fourth is set, all bits are that
    byte's top bit instead.
    """
    args = [tirx.const(v, "uint32") if isinstance(v, int) else v for v in (low, high, selector)]
    name = "shiftadd_asm_prmt"
    return T.cuda.func_call(name, *args, source_code=_PERMUTE, return_type="uint32")


def decode(codes: Any) -> tuple[Any, Any]:
    """Eight int8 weights, two int32, from the eight codes of an int32.

    Magnitudes and their negatives are looked up, and the codes' signs choose from each pair.
    """
    codes = T.bind(codes.astype("uint32"))
    places = T.bind(codes & T.uint32(0x77777777))
    signs = T.bind(((codes >> T.uint32(1)) & T.uint32(0x44444444)) | T.uint32(0x32103210))
    # Not by a shift, which compilers would move ahead of the masks and so have two of each.
    high = [permute(word, 0, 0x4432) for word in (places, signs)]
    return _decoded(places, signs), _decoded(*high)


def _decoded(places: Any, signs: Any) -> Any:
    places = T.bind(places)
    positive, negative = (permute(*table, places) for table in (_POSITIVE, _NEGATIVE))
    return T.bind(permute(positive, negative, signs).astype("int32"))


def magnitudes(codes: Any) -> Any:
    """Four bytes, an int32: the weights of positive terms, zero for negative ones.

    A sign bit has the look-up repeat the top bit of a magnitude, which is zero.
    """
    return permute(*_POSITIVE, codes.astype("uint32")).astype("int32")


def pack(values: Any) -> Any:
    """uint32 of the low bytes of four int32."""
    first, second, third, fourth = (value.astype("uint32") for value in values)
    low, high = permute(first, second, 0x0040), permute(third, fourth, 0x0040)
    return permute(low, high, 0x5410)


def add_lanes(value: Any, lanes: int) -> Any:
    """The sum of an int32 over every ``lanes`` neighbouring threads of a warp, a power of two."""
    step = 1
    while step < lanes:
        other = T.cuda.func_call(
            "__shfl_xor_sync",
            T.uint32(0xFFFFFFFF),
            value,
            T.int32(step),
            source_code="",
            return_type="int32",
        )
        value = T.bind(value + other)
        step *= 2
    return value


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
