"""The tensor intrinsic of the matrix unit: what it computes, and the call that stands for it."""
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tvm.script import tirx as T

from tvm_shiftadd._compat import s_tir

#: Arguments: mode, and the first lane of accumulator, input and weight.
GEMM_CALL: Final = "vta.gemm"

_INP, _WGT, _ACC = "local.inp_buffer", "local.wgt_buffer", "local.acc_buffer"


def register_gemm(
    name: str,
    mode: str,
    sizes: tuple[int, int],
    product: Callable[[Any, Any], Any],
    types: tuple[str, str],
) -> None:
    """Enter an intrinsic into TVM's registry, again if it is there.

    ``sizes``: batch and block; ``types``: of inputs and weights.

    TVM matches no loop of one iteration, so with a batch of 1 the intrinsic has none over it.
    """
    batch, block = sizes
    make = _vector if batch == 1 else _matrix
    s_tir.TensorIntrin.register(name, *make(mode, batch, block, product, *types), override=True)


def _reads(mode: str, inp: Any, wgt: Any, acc: Any) -> list[Any]:
    """The regions that a product reads, in the order in which its expression names them."""
    first, second = (wgt, inp) if mode == "shift" else (inp, wgt)
    return [part[tuple(slice(0, int(n)) for n in part.shape)] for part in (acc, first, second)]


def _vector(mode, batch, block, product, inp_dtype, wgt_dtype):
    @T.prim_func(private=True, s_tir=True)
    def meaning(
        A: T.Buffer((block,), inp_dtype, offset_factor=1, scope=_INP),
        B: T.Buffer((block, block), wgt_dtype, offset_factor=1, scope=_WGT),
        C: T.Buffer((block,), "int32", offset_factor=1, scope=_ACC),
    ) -> None:
        with T.sblock("root"):
            T.reads(_reads(mode, A, B, C))
            T.writes(C[0:block])
            for o, i in T.grid(block, block):
                with T.sblock("update"):
                    vo, vi = T.axis.remap("SR", [o, i])
                    C[vo] = C[vo] + product(A[vi], B[vo, vi])

    @T.prim_func(private=True, s_tir=True)
    def call(
        A: T.Buffer((block,), inp_dtype, offset_factor=1, scope=_INP),
        B: T.Buffer((block, block), wgt_dtype, offset_factor=1, scope=_WGT),
        C: T.Buffer((block,), "int32", offset_factor=1, scope=_ACC),
    ) -> None:
        with T.sblock("root"):
            T.reads(_reads(mode, A, B, C))
            T.writes(C[0:block])
            T.evaluate(T.call_extern("int32", GEMM_CALL, mode, C[0], A[0], B[0, 0]))

    return meaning, call


def _matrix(mode, batch, block, product, inp_dtype, wgt_dtype):
    @T.prim_func(private=True, s_tir=True)
    def meaning(
        A: T.Buffer((batch, block), inp_dtype, offset_factor=1, scope=_INP),
        B: T.Buffer((block, block), wgt_dtype, offset_factor=1, scope=_WGT),
        C: T.Buffer((batch, block), "int32", offset_factor=1, scope=_ACC),
    ) -> None:
        with T.sblock("root"):
            T.reads(_reads(mode, A, B, C))
            T.writes(C[0:batch, 0:block])
            for b, o, i in T.grid(batch, block, block):
                with T.sblock("update"):
                    vb, vo, vi = T.axis.remap("SSR", [b, o, i])
                    C[vb, vo] = C[vb, vo] + product(A[vb, vi], B[vo, vi])

    @T.prim_func(private=True, s_tir=True)
    def call(
        A: T.Buffer((batch, block), inp_dtype, offset_factor=1, scope=_INP),
        B: T.Buffer((block, block), wgt_dtype, offset_factor=1, scope=_WGT),
        C: T.Buffer((batch, block), "int32", offset_factor=1, scope=_ACC),
    ) -> None:
        with T.sblock("root"):
            T.reads(_reads(mode, A, B, C))
            T.writes(C[0:batch, 0:block])
            T.evaluate(T.call_extern("int32", GEMM_CALL, mode, C[0, 0], A[0, 0], B[0, 0]))

    return meaning, call
