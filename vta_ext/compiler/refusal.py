"""The one error for an operator that the accelerator cannot run."""

from __future__ import annotations

from tvm_shiftadd.errors import CompileError


class RefusedError(CompileError):
    """``operator``, by name, must stay on the host; ``why`` ends a sentence about it."""

    def __init__(self, operator: str, why: str) -> None:
        super().__init__(f"layer {operator} cannot run on the accelerator: {why}")
        self.operator = operator
