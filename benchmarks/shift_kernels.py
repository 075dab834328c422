"""Shift-add layers on the CPU, next to onnxruntime's float32 convolution of the same shape.

Each layer is a convolution with its requantisation, compiled as a network is. The two are timed
in turns in one process, so that both see the same machine; figures are medians.

    python benchmarks/shift_kernels.py [--threads 1] [--terms 2] [--layers 3x3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tvm import relax

from tvm_shiftadd.bench.timing import interleaved
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.formats import codes, packing, reference
from tvm_shiftadd.target import cpu, parse, runtime


@dataclass(frozen=True)
class Layer:
    """A convolution of a batch of square maps with padding as in the networks it is from."""

    name: str
    batch: int
    size: int
    channels: int
    outputs: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Zeros at the top, left, bottom and right: half a window."""
        half = self.kernel // 2
        return (half, half, half, half)

    @property
    def multiply_accumulates(self) -> int:
        """Of the whole batch, padded taps counted."""
        extent = (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1
        window = self.kernel**2 * self.channels // self.groups
        return self.batch * extent**2 * self.outputs * window


LAYERS = [
    Layer("CIFAR 3x3 32x32x16", 16, 32, 16, 16, 3),
    Layer("CIFAR 3x3 16x16x32", 16, 16, 32, 32, 3),
    Layer("CIFAR 3x3 8x8x64", 16, 8, 64, 64, 3),
    Layer("CIFAR 3x3/2 16-32", 16, 32, 16, 32, 3, 2),
    Layer("stem 3x3/2 224 3-32", 1, 224, 3, 32, 3, 2),
    Layer("3x3 56x56x64", 1, 56, 64, 64, 3),
    Layer("3x3 14x14x256", 1, 14, 256, 256, 3),
    Layer("1x1 112x112 16-96", 1, 112, 16, 96, 1),
    Layer("1x1 28x28 32-192", 1, 28, 32, 192, 1),
    Layer("1x1 14x14 384-96", 1, 14, 384, 96, 1),
    Layer("1x1 7x7 160-960", 1, 7, 160, 960, 1),
    Layer("depthwise 56x56x144", 1, 56, 144, 144, 3, 1, 144),
    Layer("depthwise 14x14x384", 1, 14, 384, 384, 3, 1, 384),
]


def random_weights(layer: Layer, terms: int) -> NDArray[np.int32]:
    """Integer weights [R, O], normally distributed and rounded to sums of ``terms`` terms."""
    rng = np.random.default_rng(0)
    values = codes.representable(terms)
    size = (layer.kernel**2 * layer.channels // layer.groups, layer.outputs)
    wanted = rng.normal(size=size) * values.max() / 4
    return values[np.abs(wanted[..., None] - values).argmin(-1)].astype(np.int32)


def shift_add(
    layer: Layer, weights: NDArray[np.int32], x: NDArray[np.int8], terms: int, target: str
) -> tuple[Callable[[], Any], NDArray[np.int8]]:
    """A function that runs the compiled layer, and its checked result."""
    window = {
        "strides": (layer.stride, layer.stride),
        "padding": layer.padding,
        "groups": layer.groups,
    }
    packed = packing.pack(codes.encode(weights, terms))
    bias, shift = np.zeros(layer.outputs, np.int32), np.full(1, 9, np.int32)
    variables = [
        relax.Var(name, relax.TensorType(array.shape, str(array.dtype)))
        for name, array in (("x", x), ("codes", packed), ("bias", bias))
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", variables):
        with builder.dataflow():
            kernel = (layer.kernel, layer.kernel)
            total = builder.emit(ops.conv2d(*variables, kernel_size=kernel, **window))
            y = builder.emit(ops.requantize(total, relax.const(shift), lo=0, hi=127))
            result = builder.emit_output(y)
        builder.emit_func_output(result)
    executable = cpu.build(builder.get(), parse(target), data_inputs=1)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    tensors = [tvm.runtime.tensor(array) for array in (x, packed, bias)]
    prepared = runtime.prepare_parameters(machine, tensors[1:])
    main = machine["main"]
    grouped = weights.reshape(layer.kernel, layer.kernel, -1, layer.outputs)
    expected = reference.requantize(reference.conv2d(x, grouped, bias, **window), shift, 0, 127)
    np.testing.assert_array_equal(main(tensors[0], *prepared).numpy(), expected)
    return lambda: main(tensors[0], *prepared), expected


def float_convolution(
    layer: Layer, weights: NDArray[np.int32], x: NDArray[np.int8], threads: int
) -> Callable[[], Any]:
    """A function that runs onnxruntime's float32 convolution, channels first."""
    kernel = weights.reshape(layer.kernel, layer.kernel, -1, layer.outputs).transpose(3, 2, 0, 1)
    images = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(np.float32)
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        strides=[layer.stride] * 2,
        pads=list(layer.padding),
        group=layer.groups,
    )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, images.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(kernel).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": images})


def measure(layer: Layer, terms: int, threads: int, rounds: int, target: str) -> dict[str, Any]:
    """One row: GMAC/s of both, and how many times longer the shift-add layer takes."""
    shape = (layer.batch, layer.size, layer.size, layer.channels)
    x = np.random.default_rng(1).integers(-128, 128, shape).astype(np.int8)
    weights = random_weights(layer, terms)
    ours, _ = shift_add(layer, weights, x, terms, target)
    peer = float_convolution(layer, weights, x, threads)
    times = interleaved({"ours": ours, "peer": peer}, rounds)
    seconds, peer_seconds = times["ours"].median(), times["peer"].median()
    work = layer.multiply_accumulates / 1e9
    nonzero = codes.count_terms(codes.encode(weights, terms)) / weights.size
    return {
        **asdict(layer),
        "terms_per_weight": round(nonzero, 3),
        "milliseconds": round(seconds * 1e3, 4),
        "gmac_per_second": round(work / seconds, 2),
        "onnxruntime_float_gmac_per_second": round(work / peer_seconds, 2),
        "times_onnxruntime_float": round(seconds / peer_seconds, 2),
    }


def main() -> None:
    """Measure the chosen layers and print a table; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--terms", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--layers", default="", help="only layers whose name contains this")
    parser.add_argument("--target", default="cpu", help="a target name or JSON file")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    runtime.set_num_threads(arguments.threads)
    columns = ("GMAC/s", "onnxruntime f32", "time ratio", "terms/weight")
    print(f"{'layer':24}" + "".join(f"{column:>17}" for column in columns))
    rows = []
    for layer in LAYERS:
        if arguments.layers not in layer.name:
            continue
        row = measure(layer, arguments.terms, arguments.threads, arguments.rounds, arguments.target)
        rows.append(row)
        figures = (
            row["gmac_per_second"],
            row["onnxruntime_float_gmac_per_second"],
            row["times_onnxruntime_float"],
            row["terms_per_weight"],
        )
        print(f"{layer.name:24}" + "".join(f"{figure:17.2f}" for figure in figures), flush=True)
    if arguments.json:
        report = {
            "threads": arguments.threads,
            "terms": arguments.terms,
            "target": arguments.target,
            "layers": rows,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
