"""Files that have one holder at a time, in all processes."""

from __future__ import annotations

from pathlib import Path
from typing import IO


def hold(path: Path) -> IO[bytes] | None:
    """The file, made where there is none, held until it is closed; None where it has a holder.

    Raises OSError where it cannot be opened. On Windows nothing is held.
    """
    file = path.open("ab")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        file.close()
        return None
    return file
