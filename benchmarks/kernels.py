"""Single kernels on the CPU against the machine's own limits, measured in the same run.

- 3x3 convolutions of a ResNet with their requantisation, as shares of the peak of the products of
  bytes;
- adder convolutions of the same shapes, next to torch's ``unfold`` and ``cdist`` where installed;
- dense layers with weights of one term, as shares of the bandwidth at which as many bytes are
  read from memory, next to onnxruntime's float32, int8 (MatMulInteger) and 4-bit (MatMulNBits).

Results are checked against the NumPy reference. The weights of the matrices come from memory: many
copies are used in turn.

    python benchmarks/kernels.py [--threads 1] [--results benchmarks/results]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from tvm_shiftadd.bench import limits, machine, results
from tvm_shiftadd.bench.limits import Row, copies
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.formats import codes, packing
from tvm_shiftadd.target import cpu, parse, runtime

#: Name, size of the map, channels; 3x3, as many outputs.
CONVOLUTIONS = [("C2", 56, 64), ("C5", 28, 128), ("C8", 14, 256), ("C11", 7, 512)]
ADDERS = [("56x56x64", 56, 64), ("14x14x256", 14, 256)]


@dataclass(frozen=True)
class MatrixShape:
    """A product of a matrix [rows, inputs] and weights [inputs, outputs]."""

    rows: int
    inputs: int
    outputs: int

    def __str__(self) -> str:
        return f"{self.inputs}x{self.outputs}, batch {self.rows}"


MATRICES = [MatrixShape(1, 4096, 4096), MatrixShape(1, 4096, 11008), MatrixShape(4, 4096, 4096)]


def compiled(
    variables: list[Any], call: Callable[[Any], Any], arrays: dict[str, Any]
) -> tuple[Any, Any, list[Any]]:
    """The virtual machine, its input and its prepared parameters.

    The result is checked against the reference.
    """
    builder = relax.BlockBuilder()
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(call(builder.emit))
        builder.emit_func_output(result)
    module = builder.get()
    machine_ = relax.VirtualMachine(cpu.build(module, parse("cpu"), data_inputs=1), tvm.cpu())
    tensors = [tvm.runtime.tensor(array) for array in arrays.values()]
    prepared = runtime.prepare_parameters(machine_, tensors[1:])
    (expected,) = run_reference(module, arrays).values()
    np.testing.assert_array_equal(machine_["main"](tensors[0], *prepared).numpy(), expected)
    return machine_, tensors[0], prepared


def variables_of(arrays: dict[str, Any]) -> list[Any]:
    """A Relax variable for each array."""
    return [
        relax.Var(name, relax.TensorType(array.shape, str(array.dtype)))
        for name, array in arrays.items()
    ]


def convolution(size: int, channels: int, terms: int, adder: bool) -> Callable[[], Any]:
    """A run of a 3x3 layer on a map without negative values."""
    rng = np.random.default_rng(size)
    x = rng.integers(0, 128, (1, size, size, channels)).astype(np.int8)
    window = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1)}
    if adder:
        weights = rng.integers(-128, 128, (9 * channels, channels)).astype(np.int8)
    else:
        values = rng.choice(codes.representable(terms), (9 * channels, channels))
        weights = packing.pack(codes.encode(values, terms))
    arrays = {
        "image": np.maximum(rng.normal(size=x.shape), 0).astype(np.float32),
        "weights": weights,
        "bias": rng.integers(-99, 99, channels).astype(np.int32),
        "shift": np.full(channels, 12, np.int32),
    }
    variables = variables_of(arrays)
    image, weight, bias, shift = variables
    layer = ops.adder_conv2d if adder else ops.conv2d

    def call(emit: Any) -> Any:
        y = emit(ops.requantize(emit(ops.quantize(image, 5)), shift, lo=0, hi=127))
        y = emit(layer(y, weight, bias, **window))
        return emit(ops.requantize(y, shift, lo=0, hi=127))

    return _layer_alone(*compiled(variables, call, arrays))


def _layer_alone(machine_: Any, image: Any, prepared: list[Any]) -> Callable[[], Any]:
    """The layer's kernel without what brings its input into the stored form."""
    caught: list[Any] = []

    def catch(function: Any, name: str, before: bool, _result: Any, *values: Any) -> int:
        if before and name.startswith(("shiftadd_conv2d", "shiftadd_adder")):
            caught.append((function, values))
        return 0

    machine_.set_instrument(catch)
    machine_["main"](image, *prepared)
    function, values = caught[0]
    held = [tvm.runtime.tensor(value.numpy()) for value in values]
    return lambda: function(*held)


def dense(shape: MatrixShape) -> tuple[Callable[[], Any], int]:
    """A run of a dense layer of one term with its weights from memory, and their bytes."""
    rng = np.random.default_rng(0)
    values = rng.choice(codes.representable(1), (shape.inputs, shape.outputs))
    arrays = {
        "x": rng.integers(-128, 128, (shape.rows, shape.inputs)).astype(np.int8),
        "weights": packing.pack(codes.encode(values, 1)),
        "bias": np.zeros(shape.outputs, np.int32),
    }
    variables = variables_of(arrays)
    machine_, x, prepared = compiled(variables, lambda emit: emit(ops.dense(*variables)), arrays)
    main = machine_["main"]
    size = arrays["weights"].nbytes
    turn = itertools.cycle(
        [[tvm.runtime.tensor(one.numpy()) for one in prepared] for _ in copies(size)]
    )
    return lambda: main(x, *next(turn)), size


def dense_peers(shape: MatrixShape, threads: int) -> dict[str, Callable[[], Any]]:
    """The same product by onnxruntime in its formats."""
    rng = np.random.default_rng(0)
    floats = rng.standard_normal((shape.rows, shape.inputs), dtype=np.float32)
    bytes_ = rng.integers(0, 256, floats.shape).astype(np.uint8)
    weights = shape.inputs * shape.outputs
    runs: dict[str, Callable[[], Any]] = {}
    for op, x, size in (
        ("MatMul", floats, 4 * weights),
        ("MatMulInteger", bytes_, weights),
        ("MatMulNBits", floats, weights // 2),
    ):
        sessions = [_matrix_session(op, shape, rng, threads) for _ in copies(size)]
        turn = itertools.cycle(sessions)
        name = "onnxruntime float32" if op == "MatMul" else f"onnxruntime {op}"
        runs[name] = lambda turn=turn, x=x: next(turn).run(None, {"x": x})
    return runs


def _matrix_session(op: str, shape: MatrixShape, rng: Any, threads: int) -> Any:
    sides, domain, attributes = (shape.inputs, shape.outputs), "", {}
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT)
    if op == "MatMul":
        constants = [rng.standard_normal(sides, dtype=np.float32)]
    elif op == "MatMulInteger":
        constants = [rng.integers(-128, 128, sides).astype(np.int8)]
        kinds = (TensorProto.UINT8, TensorProto.INT32)
    else:
        block, (inputs, outputs) = 32, sides
        packed = rng.integers(0, 256, (outputs, inputs // block, block // 2)).astype(np.uint8)
        scales = rng.random(outputs * inputs // block, dtype=np.float32)
        constants, domain = [packed, scales], "com.microsoft"
        attributes = {"K": inputs, "N": outputs, "bits": 4, "block_size": block}
        attributes["accuracy_level"] = 4
    names = [f"w{index}" for index in range(len(constants))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], domain=domain, **attributes)],
        "product",
        [helper.make_tensor_value_info("x", kinds[0], [shape.rows, shape.inputs])],
        [helper.make_tensor_value_info("y", kinds[1], [shape.rows, shape.outputs])],
        [
            numpy_helper.from_array(array, name)
            for array, name in zip(constants, names, strict=True)
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    content = onnx.ModelProto.SerializeToString(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def torch_distances(size: int, channels: int, threads: int) -> dict[str, Callable[[], Any]]:
    """The adder convolution by torch's own operators, float32; nothing without torch."""
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(threads)
    x, weights = torch.randn(1, channels, size, size), torch.randn(channels, 9 * channels)

    def run() -> Any:
        with torch.inference_mode():
            columns = torch.nn.functional.unfold(x, 3, padding=1)[0].T.contiguous()
            return -torch.cdist(columns, weights, p=1)

    return {"torch cdist": run}


def measure(how: argparse.Namespace) -> list[Row]:
    """All rows, printed as they come."""
    rows: list[Row] = []

    def add(*arguments: Any) -> None:
        rows.append(limits.measure(*arguments, threads=how.threads, rounds=how.rounds))
        print(*map(results.text, limits.table(rows, how.threads).rows[-1]), sep="  ", flush=True)

    for kind, layers in (("convolution", CONVOLUTIONS), ("adder", ADDERS)):
        for name, size, channels in layers:
            adder = kind == "adder"
            runs = {limits.OURS: convolution(size, channels, 2, adder)}
            if adder:
                runs["shift layer"] = convolution(size, channels, 2, False)
                runs |= torch_distances(size, channels, how.threads)
            work = size * size * channels * channels * 9
            add(f"{kind} {name}", "G/s", work, limits.products(how.threads), runs)
    for shape in MATRICES:
        ours, size = dense(shape)
        runs = {limits.OURS: ours, **dense_peers(shape, how.threads)}
        add(f"dense {shape}", "GB/s", size, limits.reading(how.threads, size), runs)
    return rows


def main() -> None:
    """Measure and print; write JSON and Markdown if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, help="folder for JSON and Markdown")
    arguments = parser.parse_args()
    runtime.set_num_threads(arguments.threads)
    described = machine.describe().to_dict()
    rows = measure(arguments)
    shown = limits.table(rows, arguments.threads)
    print(results.markdown("Kernels", described, [shown]))
    if arguments.results:
        arguments.results.mkdir(parents=True, exist_ok=True)
        report = {
            "machine": described,
            "threads": arguments.threads,
            "kernels": [row.to_dict() for row in rows],
        }
        stem = f"kernels_{arguments.threads}_threads"
        results.write(arguments.results / stem, "Kernels", report, [shown])


if __name__ == "__main__":
    main()
