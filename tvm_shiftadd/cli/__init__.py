"""The command line: ``tvm-shiftadd``, one file a command.

Nothing heavy is imported here; a command imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 done, 1 failed, 2 wrong usage or input, 130 interrupted.

    Messages go to standard error, one sentence each; a traceback only with ``--debug``.
    """
    try:
        # Here, so that Ctrl-C while it loads ends like any other.
        from tvm_shiftadd.cli import app
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 130
    return app.main(arguments)
