"""tvm-shiftadd: trained networks compiled to shift-and-add form on Apache TVM.

The public interface is what ``__all__`` lists. Every name is loaded when it is first used, so
``import tvm_shiftadd`` is quick and ``tvm_shiftadd.formats`` and ``tvm_shiftadd.convert`` can be
used without TVM.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tvm_shiftadd.errors import InputError, ShiftAddError

if TYPE_CHECKING:
    from tvm_shiftadd.api import compile, evaluate, explain, load
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.convert import Budget
    from tvm_shiftadd.data import Dataset, Preprocess, open_dataset

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Budget",
    "Dataset",
    "InputError",
    "Preprocess",
    "ShiftAddError",
    "__version__",
    "compile",
    "evaluate",
    "explain",
    "load",
    "open_dataset",
]

_HOME = {
    "Artifact": "tvm_shiftadd.artifact",
    "Budget": "tvm_shiftadd.convert",
    "Dataset": "tvm_shiftadd.data",
    "Preprocess": "tvm_shiftadd.data",
    "compile": "tvm_shiftadd.api",
    "evaluate": "tvm_shiftadd.api",
    "explain": "tvm_shiftadd.api",
    "load": "tvm_shiftadd.api",
    "open_dataset": "tvm_shiftadd.data",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'tvm_shiftadd' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
