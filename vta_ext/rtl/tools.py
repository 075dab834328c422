"""Where the hardware tools are: packages of this Python, or programs on the PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tvm_shiftadd.errors import DependencyError

INSTALL: Final = "pip install 'tvm-shiftadd[rtl]'"


def find(name: str) -> str:
    """The command ``name``, or its package's ``yowasp-name``, beside this Python or on the PATH.

    Raises DependencyError, naming the command that installs it.
    """
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join([beside, os.environ.get("PATH", "")])
    for candidate in (f"yowasp-{name}", name):
        found = shutil.which(candidate, path=path)
        if found is not None:
            return found
    raise DependencyError(f"this needs {name}, which is not installed: {INSTALL}")


def version(command: str) -> str:
    """The line in which a tool says its version."""
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).strip().splitlines()
    # Before it the WebAssembly packages may say that they prepare themselves.
    return said[-1].strip() if said else "unknown"
