"""Registration may happen any number of times, in any order of imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tvm_shiftadd._compat import Op
from tvm_shiftadd.dialect import ops, register_all, registry

REPEATED = """
import importlib
import numpy as np
{first}
import tvm_shiftadd.dialect as dialect
dialect.register_all()
for name in ("elementwise", "scaling", "registry"):
    importlib.reload(importlib.import_module("tvm_shiftadd.dialect." + name))
importlib.reload(dialect)
from tvm import relax
from tvm_shiftadd.dialect import ops
x = relax.Var("x", relax.TensorType((4,), "int8"))
print(relax.BlockBuilder().normalize(ops.clip(x, lo=0, hi=1)).ty)
"""


def test_every_builder_has_a_complete_operator() -> None:
    assert set(registry.specs()) == set(ops.__all__)
    for name in ops.__all__:
        op = Op.get("shiftadd." + name)
        assert all(op.has_attr(key) for key in ("FInferType", "FPurity", "FLegalize"))


def test_registering_again_changes_nothing() -> None:
    before = set(Op.list_op_names())
    register_all()
    assert set(Op.list_op_names()) == before


@pytest.mark.parametrize(
    "first", ["import tvm", "import tvm_shiftadd.dialect", "import tvm_shiftadd.topi.scaling"]
)
def test_repeated_loading_in_a_fresh_process(first: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", REPEATED.format(first=first)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == 'R.Tensor((4,), dtype="int8")'
