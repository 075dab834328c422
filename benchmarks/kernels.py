"""Single kernels on the CPU against the machine's own limits, measured in the same run.

- 3x3 convolutions of a ResNet with their requantisation, as shares of the peak of ``vpdpbusd``;
- adder convolutions of the same shapes, next to torch's ``unfold`` and ``cdist`` where installed;
- matrix times vector with weights of one term, as a share of the bandwidth at which the same
  bytes are read, next to onnxruntime's float32, int8 (MatMulInteger) and 4-bit (MatMulNBits).

Results are checked against the NumPy reference. The weights of the matrices come from memory: many
copies are used in turn.

    python benchmarks/kernels.py [--threads 1] [--results benchmarks/results]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as build

from tvm_shiftadd.bench import machine, results
from tvm_shiftadd.bench.results import Table
from tvm_shiftadd.bench.timing import interleaved
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.formats import codes, packing
from tvm_shiftadd.target import cpu, parse, runtime
from tvm_shiftadd.topi.schedules.cpu.dot.function import kernel
from tvm_shiftadd.topi.schedules.cpu.dot.instructions import LANES, VECTOR, dot

#: Name, size of the map, channels; 3x3, as many outputs.
CONVOLUTIONS = [("C2", 56, 64), ("C5", 28, 128), ("C8", 14, 256), ("C11", 7, 512)]
ADDERS = [("56x56x64", 56, 64), ("14x14x256", 14, 256)]
SIDE = 4096
#: Copies of a matrix of weights: together far more than the caches.
COPIES = 12
_CHAINS, _TURNS = 16, 100_000


def compiled(variables: list[Any], call: Callable[[Any], Any], arrays: dict[str, Any]) -> Any:
    """The main function, its first input and the sets of prepared parameters.

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
    main = machine_["main"]
    (expected,) = run_reference(module, arrays).values()
    np.testing.assert_array_equal(main(tensors[0], *prepared).numpy(), expected)
    return main, tensors[0], prepared


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

    compiled(variables, call, arrays)
    return _layer_alone(variables, call, arrays, x)


def _layer_alone(variables: list[Any], call: Any, arrays: dict[str, Any], x: Any) -> Any:
    """The layer's kernel without what brings its input into the stored form."""
    builder = relax.BlockBuilder()
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(call(builder.emit))
        builder.emit_func_output(result)
    executable = cpu.build(builder.get(), parse("cpu"), data_inputs=1)
    machine_ = relax.VirtualMachine(executable, tvm.cpu())
    tensors = [tvm.runtime.tensor(array) for array in arrays.values()]
    prepared = runtime.prepare_parameters(machine_, tensors[1:])
    caught: list[Any] = []

    def catch(function: Any, name: str, before: bool, _result: Any, *values: Any) -> int:
        if before and name.startswith(("shiftadd_conv2d", "shiftadd_adder")):
            caught.append((function, values))
        return 0

    machine_.set_instrument(catch)
    machine_["main"](tensors[0], *prepared)
    function, values = caught[0]
    held = [tvm.runtime.tensor(value.numpy()) for value in values]
    return lambda: function(*held)


def peak(threads: int) -> Callable[[], Any]:
    """A run of dot products on registers alone."""
    spread = build.parallel if threads > 1 else build.serial
    tensors = {"out": ((threads, LANES), "int32")}
    with kernel("shiftadd_peak", tensors) as made, spread(threads) as thread:
        sums = T.alloc_buffer((_CHAINS * LANES,), "int32")
        for chain in range(_CHAINS):
            zero = T.broadcast(T.int32(0), LANES)
            T.buffer_store(sums, zero, [T.ramp(chain * LANES, 1, LANES)])
        with build.serial(_TURNS) as turn:
            value = T.reinterpret(T.broadcast(turn, LANES), dtype="uint8x64")
            for chain in range(_CHAINS):
                at = chain * LANES
                total = dot(
                    sums.vload([at], dtype="int32x16"), value, T.broadcast(T.int8(3), VECTOR)
                )
                T.buffer_store(sums, total, [T.ramp(at, 1, LANES)])
        result = sums.vload([0], dtype="int32x16")
        for chain in range(1, _CHAINS):
            result = result ^ sums.vload([chain * LANES], dtype="int32x16")
        T.buffer_store(made["out"], result, [thread, T.ramp(0, 1, LANES)])
    module = tvm.IRModule({"peak": made.function.with_attr("global_symbol", "peak")})
    function = tvm.compile(module, target=cpu.tvm_target(parse("cpu")))["peak"]
    out = tvm.runtime.tensor(np.zeros((threads, LANES), np.int32))
    return lambda: function(out)


def reader(threads: int, size: int) -> Callable[[], Any]:
    """A run that reads ``size`` bytes of one of many arrays and adds them up."""
    spread = build.parallel if threads > 1 else build.serial
    lines = size // (8 * VECTOR)
    tensors = {"x": ((size // 4,), "int32"), "out": ((threads, LANES), "int32")}
    with kernel("shiftadd_read", tensors) as made, spread(threads) as thread:
        sums = T.alloc_buffer((8 * LANES,), "int32")
        for part in range(8):
            zero = T.broadcast(T.int32(0), LANES)
            T.buffer_store(sums, zero, [T.ramp(part * LANES, 1, LANES)])
        with build.serial(lines // threads) as line:
            for part in range(8):
                at = part * LANES
                start = (thread * (lines // threads) + line) * (8 * LANES) + at
                total = sums.vload([at], dtype="int32x16") + made["x"].vload(
                    [start], dtype="int32x16"
                )
                T.buffer_store(sums, total, [T.ramp(at, 1, LANES)])
        result = sums.vload([0], dtype="int32x16")
        for part in range(1, 8):
            result = result + sums.vload([part * LANES], dtype="int32x16")
        T.buffer_store(made["out"], result, [thread, T.ramp(0, 1, LANES)])
    module = tvm.IRModule({"read": made.function.with_attr("global_symbol", "read")})
    function = tvm.compile(module, target=cpu.tvm_target(parse("cpu")))["read"]
    out = tvm.runtime.tensor(np.zeros((threads, LANES), np.int32))
    arrays = [tvm.runtime.tensor(np.ones(size // 4, np.int32)) for _ in range(COPIES)]
    turn = itertools.cycle(arrays)
    return lambda: function(next(turn), out)


def matrix_vector() -> Callable[[], Any]:
    """A run of a dense layer of one term, its weights from memory."""
    rng = np.random.default_rng(0)
    values = rng.choice(codes.representable(1), (SIDE, SIDE))
    arrays = {
        "x": rng.integers(-128, 128, (1, SIDE)).astype(np.int8),
        "weights": packing.pack(codes.encode(values, 1)),
        "bias": np.zeros(SIDE, np.int32),
    }
    variables = variables_of(arrays)
    main, x, prepared = compiled(variables, lambda emit: emit(ops.dense(*variables)), arrays)
    copies = [[tvm.runtime.tensor(one.numpy()) for one in prepared] for _ in range(COPIES)]
    turn = itertools.cycle(copies)
    return lambda: main(x, *next(turn))


def matrix_peers(threads: int) -> dict[str, Callable[[], Any]]:
    """The same product by onnxruntime in its formats."""
    rng = np.random.default_rng(0)
    runs: dict[str, Callable[[], Any]] = {}
    floats = rng.standard_normal((1, SIDE), dtype=np.float32)
    bytes_ = rng.integers(0, 256, (1, SIDE)).astype(np.uint8)
    forms = {
        "onnxruntime float32": ("MatMul", floats),
        "onnxruntime MatMulInteger": ("MatMulInteger", bytes_),
        "onnxruntime MatMulNBits": ("MatMulNBits", floats),
    }
    for label, (op, x) in forms.items():
        sessions = [_matrix_session(op, rng, threads) for _ in range(COPIES)]
        turn = itertools.cycle(sessions)
        runs[label] = lambda turn=turn, x=x: next(turn).run(None, {"x": x})
    return runs


def _matrix_session(op: str, rng: Any, threads: int) -> onnxruntime.InferenceSession:
    shape, domain, attributes = (SIDE, SIDE), "", {}
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT)
    if op == "MatMul":
        constants = [rng.standard_normal(shape, dtype=np.float32)]
    elif op == "MatMulInteger":
        constants = [rng.integers(-128, 128, shape).astype(np.int8)]
        kinds = (TensorProto.UINT8, TensorProto.INT32)
    else:
        block = 32
        packed = rng.integers(0, 256, (SIDE, SIDE // block, block // 2)).astype(np.uint8)
        scales = rng.random(SIDE * SIDE // block, dtype=np.float32)
        constants, domain = [packed, scales], "com.microsoft"
        attributes = {"K": SIDE, "N": SIDE, "bits": 4, "block_size": block, "accuracy_level": 4}
    names = [f"w{index}" for index in range(len(constants))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], domain=domain, **attributes)],
        "product",
        [helper.make_tensor_value_info("x", kinds[0], [1, SIDE])],
        [helper.make_tensor_value_info("y", kinds[1], [1, SIDE])],
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


def torch_distances(size: int, channels: int, threads: int) -> Callable[[], Any] | None:
    """The adder convolution by torch's own operators, float32; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    x, weights = torch.randn(1, channels, size, size), torch.randn(channels, 9 * channels)

    def run() -> Any:
        with torch.inference_mode():
            columns = torch.nn.functional.unfold(x, 3, padding=1)[0].T.contiguous()
            return -torch.cdist(columns, weights, p=1)

    return run


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows: seconds, and the share of the limit of the same block of runs."""
    threads, rows = arguments.threads, []
    peak_work = threads * _CHAINS * _TURNS * VECTOR

    def timed(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
        taken = interleaved(runs, arguments.rounds)
        return {name: one.median("cpu" if threads == 1 else "wall") for name, one in taken.items()}

    for kind, layers in (("convolution", CONVOLUTIONS), ("adder", ADDERS)):
        for name, size, channels in layers:
            work = size * size * channels * channels * 9
            runs = {
                "peak": peak(threads),
                "shift-add": convolution(size, channels, 2, kind == "adder"),
            }
            if kind == "adder":
                runs["shift layer"] = convolution(size, channels, 2, False)
                distances = torch_distances(size, channels, threads)
                if distances is not None:
                    runs["torch cdist"] = distances
            seconds = timed(runs)
            rate = work / seconds["shift-add"] / 1e9
            limit = peak_work / seconds["peak"] / 1e9
            rows.append({"kernel": f"{kind} {name}", "unit": "G/s", "rate": rate, "limit": limit})
            rows[-1]["times"] = _times(seconds)
    size = SIDE * SIDE // 2
    seconds = timed(
        {"peak": reader(threads, size), "shift-add": matrix_vector(), **matrix_peers(threads)}
    )
    rows.append({"kernel": f"dense {SIDE}x{SIDE}", "unit": "GB/s", "times": _times(seconds)})
    rows[-1]["rate"], rows[-1]["limit"] = (size / seconds[k] / 1e9 for k in ("shift-add", "peak"))
    return rows


def _times(seconds: dict[str, float]) -> dict[str, float]:
    ours = seconds["shift-add"]
    others = {k: v for k, v in seconds.items() if k not in ("peak", "shift-add")}
    return {name: round(value / ours, 3) for name, value in others.items()}


def table(rows: list[dict[str, Any]], threads: int) -> Table:
    """The rows for people."""
    lines = []
    for row in rows:
        others = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in row["times"].items())
        figures = (f"{row[key]:.0f} {row['unit']}" for key in ("rate", "limit"))
        lines.append((row["kernel"], *figures, f"{row['rate'] / row['limit']:.2f}", others))
    columns = ("kernel", "rate", "limit", "share", "others, times ours")
    return Table(f"Threads: {threads}", columns, tuple(lines))


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
