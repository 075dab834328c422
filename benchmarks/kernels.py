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

from tvm_shiftadd.bench import machine, peak_kernels, results
from tvm_shiftadd.bench.results import Table
from tvm_shiftadd.bench.timing import Clock, interleaved
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
#: A run, and the work that it does.
Limit = tuple[Callable[[], Any], float]
#: Bytes of all copies of a matrix of weights, which are used in turn: far more than the caches.
COPIED = 256 << 20
#: Turns of the loop of dot products: some milliseconds.
_TURNS = 100_000


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


def copies(size: int) -> range:
    """Numbers of the copies of ``size`` bytes that come from memory when they are used in turn."""
    return range(1 + max(1, COPIED // size))


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


def peak(threads: int) -> Limit:
    """A run of dot products on registers alone, and its multiply-accumulates."""
    isa = cpu.best_set(_target())
    if isa is None:
        raise SystemExit("this processor has no instructions that fused kernels are made of")
    bench = peak_kernels.dot_products(threads, _TURNS, isa)
    return _run_of(bench, 1), bench.work


def reader(threads: int, size: int) -> Limit:
    """A run that reads ``size`` bytes of one of many arrays, and the bytes it reads."""
    bench = peak_kernels.reading(threads, size // threads, 1, 2 * cpu.vector_lanes(_target()))
    return _run_of(bench, len(copies(size))), bench.work


def _target() -> Any:
    return cpu.tvm_target(parse("cpu"))


def _run_of(bench: peak_kernels.Bench, count: int) -> Callable[[], Any]:
    function = tvm.compile(tvm.IRModule({"bench": bench.function}), _target())["bench"]
    out = tvm.runtime.tensor(np.zeros(bench.results, np.int32))
    arrays = [tvm.runtime.tensor(np.ones(bench.words, np.int32)) for _ in range(count)]
    turn = itertools.cycle(arrays)
    return lambda: function(next(turn), out)


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


def measured(
    name: str, unit: str, work: float, limit: Limit, runs: dict[str, Callable[[], Any]], how: Any
) -> dict[str, Any]:
    """A row: rates of ours ("shift-add") and of the limit in ``unit``, 1e9 of ``work`` a second.

    The others' times are multiples of ours, and what they would be if ours were at the limit.
    """
    clock: Clock = "cpu" if how.threads == 1 else "wall"
    timings = interleaved({"limit": limit[0], **runs}, how.rounds)
    ours = timings["shift-add"]
    rate, most = work / ours.median(clock) / 1e9, limit[1] / timings["limit"].median(clock) / 1e9
    share = work / limit[1] * ours.ratio(timings["limit"], clock).median
    others = [one for one in runs if one != "shift-add"]
    times = {one: ours.ratio(timings[one], clock).median for one in others}
    return {
        "kernel": name,
        "unit": unit,
        "milliseconds": 1e3 * ours.median(clock),
        "rate": rate,
        "limit": most,
        "share": share,
        "times_ours": times,
        "times_ours_at_the_limit": {one: ratio / share for one, ratio in times.items()},
    }


def measure(how: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, printed as they come."""
    rows: list[dict[str, Any]] = []

    def add(*arguments: Any) -> None:
        rows.append(measured(*arguments, how))
        print(*table(rows, how.threads).rows[-1], sep="  ", flush=True)

    for kind, layers in (("convolution", CONVOLUTIONS), ("adder", ADDERS)):
        for name, size, channels in layers:
            adder = kind == "adder"
            runs = {"shift-add": convolution(size, channels, 2, adder)}
            if adder:
                runs["shift layer"] = convolution(size, channels, 2, False)
                runs |= torch_distances(size, channels, how.threads)
            work = size * size * channels * channels * 9
            add(f"{kind} {name}", "G/s", work, peak(how.threads), runs)
    for shape in MATRICES:
        ours, size = dense(shape)
        runs = {"shift-add": ours, **dense_peers(shape, how.threads)}
        add(f"dense {shape}", "GB/s", size, reader(how.threads, size), runs)
    return rows


def table(rows: list[dict[str, Any]], threads: int) -> Table:
    """The rows for people."""
    lines = []
    for row in rows:
        figures = (f"{row[key]:.0f} {row['unit']}" for key in ("rate", "limit"))
        others = (_times(row[key]) for key in ("times_ours", "times_ours_at_the_limit"))
        lines.append((row["kernel"], row["milliseconds"], *figures, f"{row['share']:.2f}", *others))
    columns = ("kernel", "ms", "rate", "limit", "share", "others, times ours", "at the limit")
    notes = (
        "Limit: products of bytes on registers, or reading as many bytes from memory, in the same "
        "turns. At the limit: how many times as long as ours the others would take if ours were "
        "at it.",
    )
    return Table(f"Threads: {threads}", columns, tuple(lines), 1, notes)


def _times(ratios: dict[str, float]) -> str:
    return ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())


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
    shown = table(rows, arguments.threads)
    print(results.markdown("Kernels", described, [shown]))
    if arguments.results:
        arguments.results.mkdir(parents=True, exist_ok=True)
        report = {"machine": described, "threads": arguments.threads, "kernels": rows}
        stem = f"kernels_{arguments.threads}_threads"
        results.write(arguments.results / stem, "Kernels", report, [shown])


if __name__ == "__main__":
    main()
