"""PyTorch: the imported network as it runs by itself, compiled, and brought to int8."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from tvm_shiftadd.bench.quantize import Feed, silence
from tvm_shiftadd.bench.torch_network import Distances, torch_network
from tvm_shiftadd.bench.work import Array, Prepared, Work
from tvm_shiftadd.convert.graph import ADDER_OPS, Graph
from tvm_shiftadd.errors import ModelError


def eager(work: Work, threads: int) -> Prepared:
    """Operator by operator, float32; adder layers by torch's kernel for distances."""
    return _eager(work, threads, "cdist")


def sums(work: Work, threads: int) -> Prepared:
    """The same with adder layers as their authors compute them. ModelError where there are none."""
    if not has_adders(work.float_network.graph):
        raise ModelError("the network has no adder layers, so it is what torch is")
    return _eager(work, threads, "sums")


def compiled(work: Work, threads: int) -> Prepared:
    """Compiled by ``torch.compile``, its weights frozen. ModelError for adder layers."""
    if has_adders(work.float_network.graph):
        raise ModelError("adder layers are torch's cdist, which its compiler leaves as it is")
    network = _network(work, threads, "cdist")
    return _compiled(network, work, _bytes(network))


def int8(work: Work, threads: int) -> Prepared:
    """int8 as torch's documentation recommends for x86: exported, quantised, compiled.

    Static, a scale for each output channel of a weight. See
    https://docs.pytorch.org/ao/stable/pt2e_quantization/pt2e_quant_x86_inductor.html. ModelError
    for adder layers.
    """
    if has_adders(work.float_network.graph):
        raise ModelError("torch has no int8 form of adder layers")
    with silence():
        import torch
        from torchao.quantization.pt2e import quantize_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        network = _network(work, threads, "cdist")
        exported = torch.export.export(network, _inputs(work, work.feed)).module()
        recommended = x86.get_default_x86_inductor_quantization_config()
        quantizer = x86.X86InductorQuantizer().set_global(recommended)
        observed = quantize_pt2e.prepare_pt2e(exported, quantizer)
        with torch.no_grad():
            for feed in work.calibration:
                observed(*_inputs(work, feed))
        quantised = quantize_pt2e.convert_pt2e(observed)
    return _compiled(quantised, work, _bytes(quantised))


def has_adders(graph: Graph) -> bool:
    """Whether a network has adder layers."""
    return any(node.op in ADDER_OPS for node in graph.nodes)


def _eager(work: Work, threads: int, distances: Distances) -> Prepared:
    import torch

    network, inputs = _network(work, threads, distances), _inputs(work, work.feed)

    def run() -> list[Array]:
        with torch.inference_mode():
            return [output.numpy() for output in network(*inputs)]

    return Prepared(run, _bytes(network))


def _compiled(network: Any, work: Work, size: int) -> Prepared:
    import torch
    from torch._inductor import config

    inputs = _inputs(work, work.feed)
    # What was compiled for another number of threads would be compiled anew, and counted.
    torch._dynamo.reset()
    function = torch.compile(network)

    def run() -> list[Array]:
        with torch.no_grad():
            return [output.numpy() for output in function(*inputs)]

    # Freezing makes the weights constants, which may then be brought into another layout.
    with silence(), config.patch(freezing=True, compile_threads=1):
        run()
    return Prepared(run, size)


def _network(work: Work, threads: int, distances: Distances) -> Any:
    """The network with its maps channels last in memory, as is advised for processors."""
    import torch

    torch.set_num_threads(threads)
    network = torch_network(work.float_network.graph, distances)
    return network.to(memory_format=torch.channels_last)


def _inputs(work: Work, feed: Feed) -> tuple[Any, ...]:
    import torch

    tensors = (
        torch.from_numpy(np.ascontiguousarray(feed[name]))
        for name in work.float_network.graph.inputs
    )
    return tuple(
        tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for tensor in tensors
    )


def _bytes(network: Any) -> int:
    """Of the tensors that run: a quantised network's graph no longer reads its float weights."""
    tensors = dict(itertools.chain(network.named_parameters(), network.named_buffers()))
    read = {node.target for node in network.graph.nodes if node.op == "get_attr"}
    layers = tuple(f"{node.target}." for node in network.graph.nodes if node.op == "call_module")
    return sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in tensors.items()
        if name in read or name.startswith(layers)
    )
