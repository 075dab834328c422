"""The entry point that TVM calls at the end of ``import tvm`` (group ``tvm.backends``)."""

from __future__ import annotations

import sys

#: Modules of ours, at or below the dialect, that import TVM when they are loaded.
_TVM_USERS = ("tvm_shiftadd._compat", "tvm_shiftadd.topi", "tvm_shiftadd.dialect")


def _autoload() -> None:
    """Register the ``shiftadd`` operators with TVM; may be called any number of times.

    Loading the dialect registers it. Where one of our own modules is what imports TVM, that module
    is only half loaded now, and loading the dialect here would run in a circle: it is left to that
    module, which loads the dialect itself if it uses it.
    """
    if any(name in sys.modules for name in _TVM_USERS):
        return
    import tvm_shiftadd.dialect  # noqa: F401
