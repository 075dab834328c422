"""Kernels and a network on an NVIDIA GPU, next to PyTorch's, all timed on the device in one run.

- dense layers (GEMV) of a language model's sizes, with codes of four bits, as shares of the
  memory's bandwidth, measured in the same run, next to cuBLAS in fp16 and int8 (through torch);
- convolutions of ResNet-18 next to cuDNN in fp16;
- adder convolutions next to torch's distances and to a kernel written by hand;
- ResNet-20 next to torch, eager and compiled.

Results of every kernel are compared with the NumPy reference before they are timed. Writes
PREFIX.json and PREFIX.md, gpu_DEVICE in benchmarks/results unless --results names others.

    python benchmarks/gpu.py [--only dense,conv2d,adder,network] [--rounds 7] [--results PREFIX]
    python benchmarks/gpu.py --plan      # what would be measured; needs no GPU
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tvm_shiftadd import api
from tvm_shiftadd.bench import gpu_layers, gpu_reference, machine, results
from tvm_shiftadd.bench.gpu_layers import Array, Layer, Timer
from tvm_shiftadd.bench.inputs import plain_options, random_calibration
from tvm_shiftadd.bench.results import Table
from tvm_shiftadd.bench.timing import Quartiles
from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.errors import ShiftAddError
from tvm_shiftadd.target import cuda_runtime

OURS = "ours"
HAND = "CUDA by hand"
#: Name, map, inputs, outputs, kernel, stride: the convolutions of ResNet-18 as VTA numbers them.
CONVOLUTIONS = [
    ("C2", 56, 64, 64, 3, 1),
    ("C3", 56, 64, 128, 3, 2),
    ("C4", 56, 64, 128, 1, 2),
    ("C5", 28, 128, 128, 3, 1),
    ("C6", 28, 128, 256, 3, 2),
    ("C7", 28, 128, 256, 1, 2),
    ("C8", 14, 256, 256, 3, 1),
    ("C9", 14, 256, 512, 3, 2),
    ("C10", 14, 256, 512, 1, 2),
    ("C11", 7, 512, 512, 3, 1),
]
KINDS = ("dense", "conv2d", "adder", "network")


def plan(kinds: Sequence[str]) -> list[Layer]:
    """The layers of these kinds."""
    dense = [
        Layer(f"{inputs}x{outputs}", "dense", batch, inputs, outputs)
        for inputs, outputs in ((4096, 4096), (4096, 11008))
        for batch in (1, 8)
    ]
    convolutions = [
        Layer(name, "conv2d", 32, inputs, outputs, size, kernel, stride, terms)
        for name, size, inputs, outputs, kernel, stride in CONVOLUTIONS
        for terms in (1, 2)
    ]
    adders = [
        Layer(f"{size}x{size}x{channels}", "adder", 32, channels, channels, size, 3)
        for size, channels in ((56, 64), (14, 256))
    ]
    return [layer for layer in (*dense, *convolutions, *adders) if layer.kind in kinds]


def expected(layer: Layer) -> Array:
    """The first copy's result by the NumPy reference."""
    module = gpu_layers.module(layer, 1)
    x = layer.inputs_of(np.random.default_rng(2))
    weights, bias = gpu_layers.parameters(layer, 1)
    (result,) = run_reference(module, {"x": x, "weights0": weights, "bias0": bias}).values()
    return result


def timed(participants: Mapping[str, Timer], rounds: int) -> dict[str, list[float]]:
    """Seconds of each participant in each round, in another order every time."""
    order, shuffle = list(participants), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            seconds[name].append(participants[name]())
    return seconds


def rows_of(seconds: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Median times and, of the others, how many times ours they take, as medians of rounds."""
    mine = np.array(seconds[OURS])
    return [
        {
            "name": name,
            "microseconds": round(1e6 * Quartiles.of(taken).median, 3),
            "times_ours": round(float(np.median(np.array(taken) / mine)), 3),
        }
        for name, taken in seconds.items()
    ]


def measure_layer(
    layer: Layer, arch: str, device: Any, rounds: int, bandwidth: float | None
) -> dict[str, Any]:
    """One layer next to its peers. AssertionError where its result is wrong."""
    run, result = gpu_layers.ours(layer, arch, device)
    np.testing.assert_array_equal(result, expected(layer), err_msg=layer.name)
    participants, absent = {OURS: run}, {}
    if layer.kind == "adder":
        participants[HAND] = gpu_reference.timer(layer, arch, device)
    for name, prepare in peers_of(layer).items():
        try:
            participants[name] = prepare()
        except (RuntimeError, AttributeError) as error:  # of another version of torch
            absent[name] = str(error).splitlines()[0]
    rows = rows_of(timed(participants, rounds))
    seconds = rows[0]["microseconds"] / 1e6
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "batch": layer.batch,
        "terms": layer.terms,
        "rows": rows,
        "absent": absent,
        "tera_operations_a_second": round(layer.operations / seconds / 1e12, 3),
        "share_of_bandwidth": None
        if bandwidth is None or layer.kind != "dense"
        else round(layer.weight_bytes / seconds / bandwidth, 3),
    }


def peers_of(layer: Layer) -> Mapping[str, Callable[[], Timer]]:
    """torch's forms of a layer; none where torch sees no GPU."""
    if not torch_sees_a_gpu():
        return {}
    from tvm_shiftadd.bench import gpu_torch

    return gpu_torch.peers(layer)


def torch_sees_a_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def measure_network(model: Path, arch: str, device: Any, rounds: int) -> list[dict[str, Any]]:
    """A network, one image and a hundred and twenty-eight, next to torch."""
    loaded = api.load(model)
    calibration = random_calibration(loaded.graph)
    conversion = api.convert(loaded, calibration, plain_options(2))
    artifact = api.build(loaded, conversion, target=f"cuda:{arch}")
    host = api.build(loaded, conversion, target="cpu")
    found = []
    for batch in (1, 128):
        shape = (batch, *loaded.graph.shapes[loaded.graph.inputs[0]][1:])
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        np.testing.assert_array_equal(artifact.run(x), host.run(x))
        running = artifact.machine()
        participants: dict[str, Timer] = {OURS: gpu_layers.repeated(partial(running.seconds, [x]))}
        if torch_sees_a_gpu():
            from tvm_shiftadd.bench import gpu_torch

            for half in (False, True):
                for compiled in (False, True):
                    name = f"torch {('fp32', 'fp16')[half]}, {('eager', 'compiled')[compiled]}"
                    participants[name] = gpu_torch.network(loaded.graph, batch, compiled, half)
        rows = rows_of(timed(participants, rounds))
        found.append({"network": model.name, "batch": batch, "rows": rows})
    return found


def tables(report: Mapping[str, Any]) -> list[Table]:
    """The report for people."""
    columns = (
        "layer",
        "batch",
        "terms",
        "what",
        "microseconds",
        "times ours",
        "Top/s",
        "bandwidth",
    )
    found = []
    for kind in KINDS[:-1]:
        rows: list[tuple[object, ...]] = []
        for entry in (e for e in report["layers"] if e["kind"] == kind):
            for row in entry["rows"]:
                mine = row["name"] == OURS
                rows.append(
                    (
                        *(entry[key] for key in ("layer", "batch", "terms")),
                        row["name"],
                        row["microseconds"],
                        None if mine else row["times_ours"],
                        entry["tera_operations_a_second"] if mine else None,
                        entry["share_of_bandwidth"] if mine else None,
                    )
                )
        if rows:
            found.append(Table(kind, columns, tuple(rows), 4))
    lines = [
        (entry["network"], entry["batch"], row["name"], row["microseconds"], row["times_ours"])
        for entry in report["networks"]
        for row in entry["rows"]
    ]
    if lines:
        names = ("network", "batch", "what", "microseconds", "times ours")
        found.append(Table("network", names, tuple(lines), 3))
    return found


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--model", type=Path, help="the network, ONNX; without it none is measured")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--plan", action="store_true")
    said = parser.parse_args(given)
    said.only = tuple(said.only.split(","))
    if unknown := sorted(set(said.only) - set(KINDS)):
        parser.error(f"--only takes {', '.join(KINDS)}, got {', '.join(unknown)}")
    if said.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {said.rounds}")
    return said


def device_name() -> str:
    if not torch_sees_a_gpu():
        return "gpu"
    import torch

    return str(torch.cuda.get_device_name(0))


def main(given: Sequence[str] | None = None) -> int:
    said = arguments(given)
    layers = plan(said.only)
    if said.plan:
        for layer in layers:
            print(layer)
        return 0
    try:
        device = cuda_runtime.device("sm_75")
    except ShiftAddError as error:
        print(error, file=sys.stderr)
        return 1
    arch, bandwidth = "sm_" + str(device.compute_version).replace(".", ""), None
    if torch_sees_a_gpu():
        from tvm_shiftadd.bench import gpu_torch

        bandwidth = gpu_torch.bandwidth()
    report = {
        "machine": machine.describe().to_dict(),
        "device": device_name(),
        "arch": arch,
        "bandwidth": bandwidth,
        "layers": [measure_layer(layer, arch, device, said.rounds, bandwidth) for layer in layers],
        "networks": measure_network(said.model, arch, device, said.rounds)
        if said.model and "network" in said.only
        else [],
    }
    name = re.sub(r"\W+", "_", device_name()).strip("_").lower()
    prefix = said.results or Path(__file__).parent / "results" / f"gpu_{name}"
    for path in results.write(prefix, f"Kernels on {device_name()}", report, tables(report)):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
