"""What PyTorch takes on the GPU for the same work: fp16 on tensor cores, int8, compiled.

Layers are recorded as a CUDA graph, so that starting kernels costs nothing; what is timed is the
device alone, as for ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_shiftadd.bench.gpu_layers import Layer, Timer, repeated
from tvm_shiftadd.bench.torch_network import torch_network
from tvm_shiftadd.convert.graph import Graph

#: Rows that torch's product of int8 matrices asks for at least.
_LEAST_ROWS = 32
#: Bytes that are copied to measure the memory's bandwidth.
_COPIED = 1 << 30


def bandwidth() -> float:
    """Bytes a second of the GPU's memory, read and written together by a large copy."""
    import torch

    source = torch.empty(_COPIED, dtype=torch.uint8, device="cuda").zero_()
    target = torch.empty_like(source)
    return 2 * _COPIED / min(recorded(lambda _: target.copy_(source), 1)() for _ in range(5))


def peers(layer: Layer) -> dict[str, Callable[[], Timer]]:
    """What to compare a layer with, by name; each is prepared when it is called."""
    if layer.kind == "adder":
        return {"torch cdist": lambda: _cdist(layer)}
    if layer.kind == "dense":
        return {
            "torch fp16 (cuBLAS)": lambda: _dense(layer),
            "torch int8 (cuBLAS)": lambda: _dense_int8(layer),
        }
    return {"torch fp16 (cuDNN)": lambda: _conv2d(layer)}


def recorded(function: Callable[[int], Any], copies: int) -> Timer:
    """The time of one call of ``function``, which gets the number of the copy, from a graph."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(side):
        for copy in range(min(copies, 3)):
            function(copy)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        for copy in range(copies):
            function(copy)
    return between_events(graph.replay, copies)


def between_events(run: Callable[[], Any], parts: int = 1) -> Timer:
    """The time of a part of what ``run`` has the device do, over many runs."""
    import torch

    def timed(number: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(number):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / number

    whole = repeated(timed)
    return lambda: whole() / parts


def _halves(*shape: int) -> Any:
    import torch

    return torch.randn(shape, dtype=torch.float16, device="cuda")


def _bytes(*shape: int) -> Any:
    import torch

    return torch.randint(-128, 128, shape, dtype=torch.int8, device="cuda")


def _dense(layer: Layer) -> Timer:
    import torch

    x = _halves(layer.batch, layer.inputs)
    weights = [_halves(layer.outputs, layer.inputs) for _ in range(layer.copies)]
    return recorded(lambda copy: torch.nn.functional.linear(x, weights[copy]), layer.copies)


def _dense_int8(layer: Layer) -> Timer:
    import torch

    x = _bytes(max(layer.batch, _LEAST_ROWS), layer.inputs)
    weights = [_bytes(layer.outputs, layer.inputs).t() for _ in range(layer.copies)]
    return recorded(lambda copy: torch._int_mm(x, weights[copy]), layer.copies)


def _conv2d(layer: Layer) -> Timer:
    import torch

    torch.backends.cudnn.benchmark = True
    last = torch.channels_last
    x = _halves(layer.batch, layer.inputs, layer.size, layer.size).to(memory_format=last)
    shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
    weight, border = _halves(*shape).to(memory_format=last), layer.kernel // 2

    def run(_copy: int) -> Any:
        return torch.nn.functional.conv2d(x, weight, stride=layer.stride, padding=border)

    return recorded(run, 1)


def _cdist(layer: Layer) -> Timer:
    """An adder layer as distances between the windows and the weights."""
    import torch

    size, border = layer.size, layer.kernel // 2
    x = torch.randn(layer.batch, layer.inputs, size, size, device="cuda")
    weight = torch.randn(layer.outputs, layer.reduction, device="cuda")

    def run() -> Any:
        windows = torch.nn.functional.unfold(x, layer.kernel, padding=border, stride=layer.stride)
        return -torch.cdist(windows.transpose(1, 2), weight, p=1)

    with torch.no_grad():
        run()
        return between_events(run)


def network(graph: Graph, batch: int, compiled: bool, half: bool) -> Timer:
    """A float network as torch runs it, eagerly or compiled, in fp32 or fp16."""
    import torch

    module = torch_network(graph).cuda()
    shape = (batch, *graph.shapes[graph.inputs[0]][1:])
    x = torch.randn(shape, device="cuda")
    if half:
        module, x = module.half(), x.half()
    if compiled:
        module = torch.compile(module, mode="max-autotune")
    with torch.no_grad():
        for _ in range(3):
            module(x)

    def run() -> Any:
        with torch.no_grad():
            return module(x)

    return between_events(run)
