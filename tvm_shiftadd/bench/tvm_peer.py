"""TVM itself: the float network as its default pipeline compiles it, without tuning."""

from __future__ import annotations

import numpy as np

from tvm_shiftadd.bench.work import Array, Prepared, Work


def default_pipeline(work: Work, threads: int) -> Prepared:
    """float32, batch norm folded, channels first, for this machine's processor.

    The pipeline gives loops no schedule: how fast they are is up to LLVM.
    """
    import tvm
    from tvm import relax

    from relay_passes import pipeline
    from relay_passes.canonicalize import Canonicalize
    from relay_passes.fold_batch_norm import FoldBatchNorm
    from tvm_shiftadd.target import CPUTarget, cpu

    model = work.float_network
    module = pipeline.run(model.module, (Canonicalize(), FoldBatchNorm()))
    main = module["main"]
    size = len(next(iter(work.feed.values())))
    free = {
        dim.name: size for param in main.params for dim in param.ty.shape if hasattr(dim, "name")
    }
    if free:
        module = relax.transform.BindSymbolicVars(free)(module)
    executable = tvm.compile(module, cpu.tvm_target(CPUTarget()))
    function = relax.VirtualMachine(executable, tvm.cpu())["main"]
    inputs = [tvm.runtime.tensor(np.ascontiguousarray(work.feed[n])) for n in model.graph.inputs]

    def run() -> list[Array]:
        result = function(*inputs)
        outputs = [result] if hasattr(result, "numpy") else list(result)
        return [output.numpy() for output in outputs]

    arrays = [array for node in model.graph.nodes for array in (node.weight, node.bias)]
    return Prepared(run, sum(array.nbytes for array in arrays if array is not None))
