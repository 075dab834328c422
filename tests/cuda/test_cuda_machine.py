"""The emulated GPU itself: what it must get right, and what it must find wrong."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm.script import tirx as T

from tests.cuda.emulation import ORDERS, copies_made, emulated, run_function


@T.prim_func(s_tir=True)
def reversed_in_blocks(A: T.Buffer((512,), "int32"), B: T.Buffer((512,), "int32")):
    T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
    shared = T.alloc_buffer((256,), "int32", scope="shared")
    for block in T.thread_binding(2, thread="blockIdx.x"):
        for thread in T.thread_binding(256, thread="threadIdx.x"):
            with T.sblock("stage"):
                i = T.axis.spatial(256, thread)
                j = T.axis.spatial(2, block)
                shared[i] = A[j * 256 + i]
            with T.sblock("reversed"):
                i = T.axis.spatial(256, thread)
                j = T.axis.spatial(2, block)
                B[j * 256 + i] = shared[255 - i]


def without_barriers(source: str) -> str:
    assert "__syncthreads();" in source
    return source.replace("__syncthreads();", "")


def run_reversed(order: str, rewrite=str) -> bool:
    given, result = np.arange(512, dtype=np.int32), np.zeros(512, np.int32)
    with emulated(order, rewrite):
        run_function(reversed_in_blocks, given, result)
    return bool((result.reshape(2, 256) == given.reshape(2, 256)[:, ::-1]).all())


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_hold_threads_back_in_any_order(order: str) -> None:
    assert run_reversed(order)


@pytest.mark.parametrize("order", ORDERS)
def test_a_missing_barrier_gives_wrong_results(order: str) -> None:
    assert not run_reversed(order, without_barriers)


def emulate(body: str, *arrays: np.ndarray, threads: int = 32) -> None:
    """Run a kernel's body over ``int* p0, int* p1, ...`` by one block of the machine."""
    names = [f"p{index}" for index in range(len(arrays))]

    def replaced(source: str) -> str:
        head = source[: source.index('extern "C"')]
        signature = ", ".join(f"int* {name}" for name in names)
        return f'{head}extern "C" __global__ void main_kernel({signature}) {{ {body} }}\n'

    with emulated(rewrite=replaced):
        run_function(touching(len(arrays), len(arrays[0]), threads), *arrays)


def touching(count: int, size: int, threads: int) -> tvm.tirx.PrimFunc:
    """A function of ``count`` buffers with one launch, whose kernel is to be replaced."""
    tensors = [tvm.te.placeholder((size,), "int32", f"p{i}") for i in range(count - 1)]
    total = tvm.te.compute(
        (size,), lambda i: sum((t[i] for t in tensors), tvm.tirx.const(0, "int32")), "total"
    )
    sch = tvm.s_tir.Schedule(tvm.te.create_prim_func([*tensors, total]))
    loop = sch.get_loops(sch.get_sblock("total"))[0]
    blocks, inner = sch.split(loop, [1, None])
    sch.bind(blocks, "blockIdx.x")
    outer, _ = sch.split(inner, [threads, None])
    sch.bind(outer, "threadIdx.x")
    return sch.mod["main"]


def test_lanes_of_a_warp_exchange_values() -> None:
    given = np.arange(64, dtype=np.int32) * 3 + 1
    sums, left, first = np.zeros_like(given), np.zeros_like(given), np.zeros_like(given)
    body = """
      int i = threadIdx.x, sum = p0[i];
      for (int k = 16; k > 0; k /= 2) sum += __shfl_xor_sync(~0u, sum, k);
      p1[i] = sum;
      p2[i] = __shfl_down_sync(~0u, p0[i], 1);
      p3[i] = __shfl_sync(~0u, p0[i], 5, 8);
    """
    emulate(body, given, sums, left, first, threads=64)
    warps = given.reshape(2, 32)
    np.testing.assert_array_equal(sums.reshape(2, 32), warps.sum(1, keepdims=True).repeat(32, 1))
    np.testing.assert_array_equal(left.reshape(2, 32)[:, :-1], warps[:, 1:])
    np.testing.assert_array_equal(left.reshape(2, 32)[:, -1], warps[:, -1])
    groups = given.reshape(8, 8)
    np.testing.assert_array_equal(first.reshape(8, 8), groups[:, 5:6].repeat(8, 1))


def test_instructions_on_four_bytes() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-(2**31), 2**31, (2, 32)).astype(np.int32)
    products, distances, chosen, signs = (np.zeros(32, np.int32) for _ in range(4))
    body = """
      int i = threadIdx.x;
      p2[i] = __dp4a(p0[i], p1[i], 7);
      p3[i] = __dp4a(__vabsdiffu4(p0[i], p1[i]), 0x01010101u, 0u);
      p4[i] = __byte_perm(p0[i], p1[i], 0x6038);
      p5[i] = shiftadd_asm_prmt(p0[i], p1[i], 0x6038);
    """
    emulate(body, a, b, products, distances, chosen, signs)
    signed = [x.view(np.int8).reshape(32, 4).astype(int) for x in (a, b)]
    plain = [x.view(np.uint8).reshape(32, 4).astype(int) for x in (a, b)]
    np.testing.assert_array_equal(products, (signed[0] * signed[1]).sum(1) + 7)
    np.testing.assert_array_equal(distances, abs(plain[0] - plain[1]).sum(1))
    # Selectors from the lowest: 8 byte 0, and to PTX its sign; byte 3, byte 0, byte 6, b's third.
    sign = np.where(signed[0][:, 0] < 0, 255, 0)
    for first, got in ((plain[0][:, 0], chosen), (sign, signs)):
        wanted = np.stack([first, plain[0][:, 3], plain[0][:, 0], plain[1][:, 2]], 1)
        np.testing.assert_array_equal(got, wanted.astype(np.uint8).view(np.int32).ravel())


def test_shared_memory_whose_size_the_launch_gives() -> None:
    given, result = np.arange(32, dtype=np.int32), np.zeros(32, np.int32)
    body = """
      extern __shared__ alignas(64) int s[];
      s[threadIdx.x] = p0[threadIdx.x];
      __syncthreads();
      p1[threadIdx.x] = s[31 - threadIdx.x];
    """
    emulate(body, given, result)
    np.testing.assert_array_equal(result, given[::-1])


def test_an_instruction_beyond_the_end_of_an_array_is_an_error() -> None:
    body = """
      __shared__ alignas(16) int rows[32 * 4];
      unsigned words[3];
      shiftadd_asm_ldmatrix_x4(words, &rows[threadIdx.x * 4]);
      p1[threadIdx.x] = words[0];
    """
    with pytest.raises(RuntimeError, match="beyond the end of an array"):
        emulate(body, np.zeros(32, np.int32), np.zeros(32, np.int32))
    emulate(body.replace("[3]", "[4]"), np.zeros(32, np.int32), np.zeros(32, np.int32))


@pytest.mark.parametrize(("copies", "seen"), [("late", 7), ("early", 9)])
def test_copies_over_what_others_still_read_are_made_at_once(copies: str, seen: int) -> None:
    given, result = np.full(32, 9, np.int32), np.zeros(32, np.int32)
    body = """
      __shared__ alignas(16) int words[32 * 4];
      int i = threadIdx.x;
      words[i * 4] = 7;
      __syncthreads();
      if (i == 0) shiftadd_asm_cp_async16(words + 4, p0, 16);
      shiftadd_asm_cp_commit();
      p1[i] = words[i * 4];
      __syncthreads();
      shiftadd_asm_cp_wait<0>();
    """
    with copies_made(copies):
        emulate(body, given, result)
    assert result[1] == seen


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("__shared__ alignas(16) int s[32]; s[threadIdx.x + p0[0]] = 1;", "an index lies beyond"),
        (
            "__shared__ alignas(16) int s[35]; *(int4*)(s + threadIdx.x / 16 * 32) = "
            "make_int4(1, 2, 3, 4);",
            "an access reaches beyond",
        ),
        (
            "alignas(64) int s[8]; *(int4*)(s + threadIdx.x / 31) = make_int4(1, 2, 3, 4);"
            "p1[threadIdx.x] = s[4];",
            "an access is not aligned",
        ),
        (
            "__shared__ alignas(16) int s[8]; shiftadd_asm_cp_async16(s + p0[0] * 2, p0, 16);",
            "not a multiple of 16",
        ),
    ],
)
def test_accesses_beside_what_is_there_are_errors(body: str, reason: str) -> None:
    given = np.ones(32, np.int32)
    with pytest.raises(RuntimeError, match=reason):
        emulate(body + " p1[0] = 1;", given, np.zeros(32, np.int32))


def test_memory_behind_a_tensor_is_not_touched() -> None:
    arrays = np.zeros(32, np.int32), np.zeros(32, np.int32)
    with pytest.raises(RuntimeError, match="memory is touched that is not a tensor's"):
        emulate("p1[threadIdx.x] = p0[threadIdx.x + 1];", *arrays)
    emulate("p1[threadIdx.x] = p0[threadIdx.x];", *arrays)


def test_threads_that_wait_at_different_places_are_an_error() -> None:
    body = "if (threadIdx.x < 8) __syncthreads(); else __syncwarp();"
    with pytest.raises(RuntimeError, match="wait for each other at different places"):
        emulate(body, np.zeros(32, np.int32), np.zeros(32, np.int32))


def test_shared_memory_is_not_zero_at_first() -> None:
    result = np.zeros(32, np.int32)
    body = "__shared__ int s[32]; p1[threadIdx.x] = s[threadIdx.x]; s[threadIdx.x] = 0;"
    emulate(body + " __syncthreads();", np.zeros(32, np.int32), result)
    assert (result != 0).all()
