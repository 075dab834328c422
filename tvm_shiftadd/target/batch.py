"""A second main function for one image.

Where any batch may come, the virtual machine computes the shape of every tensor anew in each run, a
tenth of a small network's time. With the batch known they are constants.
"""

from __future__ import annotations

from typing import Any

import tvm

from tvm_shiftadd._compat import ir, relax, tirx

#: The function that takes what ``main`` takes, for a batch of one.
SINGLE = "main_single"


@tvm.transform.module_pass(opt_level=0, name="AddSingle")
class AddSingle:
    """Add a copy of ``main`` whose batch is one, where all its data inputs have any batch.

    To be run when parameters were lifted and operators fused: both then share kernels and
    parameters. ``inputs``: how many of the parameters are data.
    """

    def __init__(self, inputs: int | None) -> None:
        self.inputs = inputs

    def transform_module(self, mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
        """The module with the function, or as it was."""
        batch = self._batch(mod["main"]) if self.inputs else None
        if batch is None:
            return mod
        copy = relax.utils.copy_with_new_vars(mod["main"])
        functions = dict(mod.functions.items())
        functions[ir.GlobalVar(SINGLE)] = copy.with_attr("global_symbol", SINGLE)
        bound = ir.IRModule(functions, attrs=mod.attrs)
        return relax.transform.BindSymbolicVars({batch: 1}, SINGLE)(bound)

    def _batch(self, main: Any) -> Any:
        """The name of the variable that is the first dimension of all inputs, and no other is."""
        found = set()
        for param in main.params[: self.inputs]:
            first, *rest = param.ty.shape
            if not isinstance(first, tirx.Var) or not all(isinstance(d, tirx.IntImm) for d in rest):
                return None
            found.add(str(first.name))
        return found.pop() if len(found) == 1 else None
