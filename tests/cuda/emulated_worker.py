"""A tuning process whose GPU is emulated: what ``tvm_shiftadd.tune.worker`` starts in tests."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from tests.cuda.emulation import emulated
from tvm_shiftadd.tune import cuda_worker


def serve(config: Mapping[str, Any]) -> cuda_worker.CUDAHandler:
    """``cuda_worker.serve`` within ``emulated``, to the end of the process."""
    stack = ExitStack()
    atexit.register(stack.close)
    stack.enter_context(emulated())
    return cuda_worker.serve(config)
