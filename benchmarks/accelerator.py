"""Whole networks on the accelerator: cycles of the timing model, time of the functional simulator.

Random images, for the conversion too, because neither cycles nor time depend much on them; with two
terms or more, cycles do depend on which tiles of weights have a second term.

    python benchmarks/accelerator.py MODEL.onnx ... [--terms 2] [--preset shift-16x16] [--layers]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from relay_passes import pipeline
from tvm_shiftadd import api
from tvm_shiftadd.convert import ConvertOptions
from vta_ext import checker
from vta_ext.offload import offload
from vta_ext.presets import preset
from vta_ext.runtime.device import SimulatorDevice
from vta_ext.sim.timing import simulate


def measure(path: Path, terms: int, machine: str, layers: bool) -> str:
    """One line of the table, and one for each layer if they are asked for."""
    model = api.load(path)
    config = preset(machine).config
    shape = (model.graph.batch or 4, *model.graph.shapes[model.graph.inputs[0]][1:])
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    # Compensation serves accuracy alone, and there is none to keep here.
    plan = api.convert(model, x, ConvertOptions(terms, compensation=False)).plan
    given = pipeline.ensured(pipeline.FLOAT_PASSES)
    module = pipeline.run(model.selected, pipeline.integer_passes(plan), given=given)
    started = time.process_time()
    found = offload(module, config)
    compiled = time.process_time() - started
    lines, cycles, products, seconds = [], 0, 0, 0.0
    for region in found.regions:
        program = region.compiled.program
        checker.require(program)
        report = simulate(program)
        cycles += report.cycles
        products += report.gemm_micro_ops()
        for label in report.labels() if layers else ():
            lines.append(
                f"  {label.name:40}{label.cycles:12,}{label.utilisation:8.1%}"
                f"{label.of_bound:8.1%}{label.of_compute_bound:8.1%}"
            )
        loaded = SimulatorDevice(config).load(program)
        loaded.launch()  # makes its plans
        started = time.process_time()
        loaded.launch()
        seconds += time.process_time() - started
    busy = products / max(cycles, 1)
    lines.insert(0, f"{path.stem:42}{cycles:12,}{busy:8.1%}{seconds:10.2f}{compiled:10.2f}")
    return "\n".join(lines)


def main() -> None:
    """Measure the models and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--terms", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--preset", default="shift-16x16")
    parser.add_argument(
        "--layers",
        action="store_true",
        help="each layer: busy, of roofline, of bound",
    )
    arguments = parser.parse_args()
    print(f"{'network':42}{'cycles':>12}{'busy':>8}{'image, s':>10}{'compile, s':>11}")
    for path in arguments.models:
        print(measure(path, arguments.terms, arguments.preset, arguments.layers), flush=True)


if __name__ == "__main__":
    main()
