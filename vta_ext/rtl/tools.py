"""Where the hardware tools are: packages of this Python, or programs on the PATH."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tvm_shiftadd.errors import DependencyError, ShiftAddError

INSTALL: Final = "pip install 'tvm-shiftadd[rtl]'"


def require(*packages: str) -> None:
    """Raise DependencyError, naming the command that installs them, unless all can be imported."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise DependencyError(f"hardware needs {' and '.join(missing)}: {INSTALL}")


@contextmanager
def explained(parser: argparse.ArgumentParser) -> Iterator[None]:
    """What goes wrong in the block as one sentence of the parser's, which ends the program."""
    try:
        yield
    except (ShiftAddError, OSError) as error:
        parser.error(str(error))


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
