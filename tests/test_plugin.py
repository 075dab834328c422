"""The entry point through which ``import tvm`` loads the dialect."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REGISTERED = "from tvm import ir; ir.Op.get('shiftadd.conv2d'); print('registered')"

installed = pytest.mark.skipif(
    not entry_points(group="tvm.backends", name="shiftadd"),
    reason="tvm-shiftadd is on the path but not installed",
)


def run_strictly(code: str) -> str:
    """Run in a fresh interpreter in which TVM's warning of a failed plugin is an error."""
    options = ["-W", "error:Failed to autoload"]
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "autoload" not in done.stderr
    return done.stdout.strip()


@installed
def test_importing_tvm_registers_the_dialect() -> None:
    assert run_strictly(f"import tvm; {REGISTERED}") == "registered"


@pytest.mark.parametrize(
    "first",
    [
        "tvm_shiftadd._compat",
        "tvm_shiftadd.topi.conv",
        "tvm_shiftadd.dialect",
        "tvm_shiftadd.dialect.registry",
        "tvm_shiftadd.artifact",
        "tvm_shiftadd.importers",
        "relay_passes.base",
    ],
)
def test_any_module_of_ours_may_be_the_first_to_import_tvm(first: str) -> None:
    code = f"import {first}, tvm_shiftadd.dialect; {REGISTERED}"
    assert run_strictly(code) == "registered"


def test_autoload_may_be_called_again() -> None:
    code = f"from tvm_shiftadd.plugin import _autoload; _autoload(); _autoload(); {REGISTERED}"
    assert run_strictly(code) == "registered"
