"""Every TVM name that has moved, or may move, between minor versions; import those from here.

Written for apache-tvm 0.27: ``tir`` is called ``tirx`` and its schedule ``s_tir``, an expression's
type is ``.ty`` (it was ``.struct_info``), and an operator attribute node is made by type key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import ir, relax, s_tir, te, tirx
from tvm.ir import Op, TupleType, register_op_attr
from tvm.ir import _ffi_api as _ir_ffi_api
from tvm.ir.attrs import DictAttrs, make_node
from tvm.ir.expr import GenericConst, TensorLoad
from tvm.relax import TensorType
from tvm.sym import Analyzer

__all__ = [
    "Analyzer",
    "DictAttrs",
    "GenericConst",
    "Op",
    "TensorLoad",
    "TensorType",
    "TupleType",
    "constant_array",
    "fields",
    "handle",
    "ir",
    "is_integer_constant",
    "llvm_intrinsic_name",
    "make_attrs",
    "op_exists",
    "register_error",
    "register_op",
    "register_op_attr",
    "relax",
    "s_tir",
    "te",
    "tirx",
]


def register_op(name: str, description: str) -> None:
    """Enter a new operator into TVM's registry; the name must not be registered yet."""
    _ir_ffi_api.RegisterOp(name, description)


def op_exists(name: str) -> bool:
    """Whether an operator of this name is registered."""
    return name in Op.list_op_names()


def make_attrs(values: Mapping[str, Any]) -> DictAttrs:
    """An attribute node from plain values: int, bool, float, str and lists of them."""
    return make_node("ir.DictAttrs", **values)


def register_error(error: type[Exception]) -> None:
    """Let an exception of this class pass through TVM's C++ code as what it is."""
    tvm_ffi.register_error(error.__name__, error)


def is_integer_constant(value: Any) -> bool:
    """Whether a dimension is a known number rather than a symbolic expression."""
    return isinstance(value, (int, tirx.IntImm))


def constant_array(expr: Any) -> NDArray[Any] | None:
    """The array of a Relax constant; None for any other expression."""
    return np.asarray(expr.value.numpy()) if isinstance(expr, GenericConst) else None


def fields(node: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of a TVM node's fields, its base classes' included.

    TVM 0.27 has no Python visitor for TensorIR; this is what one can be built on.
    """
    info = type(node).__tvm_ffi_type_info__
    while info is not None:
        for field in info.fields:
            yield field.name, getattr(node, field.name)
        info = info.parent_type_info


def handle(node: Any) -> int:
    """The address of a node's C++ object: its identity, whatever Python object stands for it."""
    return int(node.__chandle__())


def llvm_intrinsic_name(number: int) -> str:
    """The name of an LLVM intrinsic by the number that TensorIR calls carry."""
    return str(tvm.target.codegen.llvm_get_intrinsic_name(number))
