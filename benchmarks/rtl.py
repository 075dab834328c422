"""Whole networks on the Verilated machine: results beside the functional simulator's, cycles beside
the timing model's, layer by layer.

Random images and activations, for the conversion too: cycles do not depend on data.

    python benchmarks/rtl.py MODEL.onnx ... [--terms 1] [--preset shift-16x16] [--images 1]
                             [--bits 64] [--layers]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from relay_passes import pipeline
from tvm_shiftadd import api
from tvm_shiftadd.convert import ConvertOptions
from vta_ext.offload import offload
from vta_ext.presets import preset
from vta_ext.program import Program
from vta_ext.rtl.verilated import RtlDevice
from vta_ext.runtime.device import Device, SimulatorDevice
from vta_ext.sim.timing import TimingParameters, simulate


def programs(path: Path, terms: int, machine: str) -> list[Program]:
    """The programs of a network's regions."""
    model = api.load(path)
    shape = (model.graph.batch or 4, *model.graph.shapes[model.graph.inputs[0]][1:])
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    plan = api.convert(model, x, ConvertOptions(terms, compensation=False)).plan
    given = pipeline.ensured(pipeline.FLOAT_PASSES)
    module = pipeline.run(model.selected, pipeline.integer_passes(plan), given=given)
    found = offload(module, preset(machine).config)
    return [region.compiled.program for region in found.regions]


def equal(program: Program, device: Device, images: int) -> bool:
    """Whether every output of so many images is what the functional simulator makes of them."""
    rng = np.random.default_rng(1)
    machines = [device.load(program), SimulatorDevice(program.config).load(program)]
    for _ in range(images):
        for section in program.sections:
            if section.role == "input":
                data = rng.integers(0, 256, section.size, np.uint8).tobytes()
                for machine in machines:
                    machine.write(section.offset, data)
        for machine in machines:
            machine.launch()
        for section in program.sections:
            if section.role == "output":
                one, other = (m.read(section.offset, section.size) for m in machines)
                if one != other:
                    return False
    return True


def measure(path: Path, device: RtlDevice, arguments: argparse.Namespace) -> None:
    """Print a line for the network, and one for each layer if they are asked for."""
    bits = arguments.bits
    for program in programs(path, arguments.terms, arguments.preset):
        same = equal(program, device, arguments.images)
        loaded = device.place(program)
        started = time.process_time()
        loaded.launch(trace=True)
        seconds = time.process_time() - started
        found, model = loaded.timing(), simulate(program, TimingParameters(memory_bits=bits))
        print(
            f"{path.stem:40}{found.cycles:11,}{model.cycles:11,}"
            f"{found.cycles / model.cycles - 1:+8.2%}{found.utilisation:8.1%}{seconds:9.1f}  "
            f"{'equal' if same else 'DIFFERENT'}",
            flush=True,
        )
        if arguments.layers:
            for one, other in zip(found.labels(), model.labels(), strict=True):
                share = one.cycles / max(other.cycles, 1) - 1
                print(
                    f"  {one.name:38}{one.cycles:11,}{other.cycles:11,}{share:+8.2%}"
                    f"{one.utilisation:8.1%}"
                )


def main() -> None:
    """Measure the models and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--terms", type=int, default=1, choices=(1, 2, 3))
    parser.add_argument("--preset", default="shift-16x16")
    parser.add_argument("--bits", type=int, default=64, help="of the memory port")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--layers", action="store_true")
    arguments = parser.parse_args()
    print(f"{'network':40}{'RTL':>11}{'model':>11}{'':>8}{'busy':>8}{'CPU s':>9}")
    device = RtlDevice(preset(arguments.preset).config, memory_bits=arguments.bits)
    for path in arguments.models:
        measure(path, device, arguments)


if __name__ == "__main__":
    main()
