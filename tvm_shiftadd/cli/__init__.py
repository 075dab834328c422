"""The command line: ``tvm-shiftadd``, one file a command.

Nothing heavy is imported here; a command imports what it needs when it runs.
"""

from __future__ import annotations

from tvm_shiftadd.cli.app import main

__all__ = ["main"]
