"""Compute definitions on arrays that are known: compiled for the processor here, and run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from tvm_shiftadd._compat import te


def evaluate(
    define: Callable[..., list[Any]], arrays: Sequence[NDArray[Any]]
) -> list[NDArray[Any]]:
    """The arrays that a compute definition makes of others, whatever their kernels are made for."""
    inputs = [
        te.placeholder(array.shape, str(array.dtype), name=f"input{index}")
        for index, array in enumerate(arrays)
    ]
    outputs = define(*inputs)
    compiled = tvm.compile(te.create_prim_func([*inputs, *outputs]), target="llvm")
    made = [np.zeros([int(size) for size in output.shape], str(output.dtype)) for output in outputs]
    tensors = [tvm.runtime.tensor(array) for array in (*arrays, *made)]
    compiled(*tensors)
    return [tensor.numpy() for tensor in tensors[len(arrays) :]]
