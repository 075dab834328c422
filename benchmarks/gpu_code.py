"""What the GPU's assembler makes of the CUDA kernels: registers, spills, the innermost loop.

Needs no GPU but nvcc and nvdisasm of the CUDA toolkit on the PATH, and prints Markdown:

    python benchmarks/gpu_code.py [--arch sm_80]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tvm_shiftadd.target import CUDATarget, cuda
from tvm_shiftadd.topi.schedules.cuda.epilogue import Epilogue, Tensor
from tvm_shiftadd.topi.schedules.cuda.layers import layer_kernel
from tvm_shiftadd.topi.schedules.cuda.problem import Problem
from tvm_shiftadd.topi.schedules.cuda.space import by_rule
from tvm_shiftadd.topi.schedules.shapes import conv_shape

_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")
_LABEL = re.compile(r"\s*(\.L_x_\d+):")
_BRANCH = re.compile(r"BRA.*`?\(?(\.L_x_\d+)")
#: The products, or distances, that a thread of each instruction brings.
PRODUCTS = {"IMMA.16832": 128, "IDP.4A": 4, "VABSDIFF4": 4}


@dataclass(frozen=True)
class Work:
    """A layer: ``size x size`` maps of ``channels``, a window with stride 1 or 2."""

    name: str
    size: int
    channels: int
    outputs: int
    window: int
    stride: int = 1
    terms: int = 1
    images: int = 32
    adder: bool = False
    groups: int = 1

    def problem(self) -> Problem:
        """What its kernel has to do."""
        shape = conv_shape(
            (self.size, self.size, self.channels),
            self.outputs,
            self.terms,
            (self.window, self.window),
            (self.stride, self.stride),
            (self.window // 2,) * 4,  # type: ignore[arg-type]
            (1, 1),
            self.groups,
        )
        return Problem(shape, "int8", "adder" if self.adder else "dot")


WORKS = (
    Work("3x3, 56x56x64, one term", 56, 64, 64, 3),
    Work("3x3, 56x56x64, two terms", 56, 64, 64, 3, terms=2),
    Work("3x3, 14x14x256, one term", 14, 256, 256, 3),
    Work("7x7/2, 224x224x3, dp4a", 224, 3, 64, 7, 2),
    Work("adder 3x3, 56x56x64", 56, 64, 64, 3, adder=True),
    Work("depthwise 3x3, 56x56x64", 56, 64, 64, 3, groups=64),
    Work("dense 4096 -> 4096, 1 image", 1, 4096, 4096, 1, images=1),
    Work("dense 4096 -> 4096, 8 images", 1, 4096, 4096, 1, images=8),
)


@dataclass(frozen=True)
class Code:
    """What was found in a kernel's machine code; ``loop`` is the longest loop, or all of it."""

    registers: int
    spills: int
    loop: Counter[str]

    @property
    def products(self) -> float:
        """Products or distances for each instruction of the loop."""
        work = sum(
            count * products
            for name, count in self.loop.items()
            for start, products in PRODUCTS.items()
            if name.startswith(start)
        )
        return work / max(1, sum(self.loop.values()))


def source(work: Work, target: CUDATarget) -> str:
    """The CUDA C++ of a layer's kernel without tuning."""
    problem = work.problem()
    shape = problem.shape
    maps = ((shape.height, shape.width), (shape.out_height, shape.out_width))
    shapes = tuple(
        (work.images, *size, channels)
        for size, channels in zip(maps, (work.channels, work.outputs), strict=True)
    )
    kernel = layer_kernel(problem, by_rule(problem, work.images, target.level))
    function = kernel.build(Epilogue(Tensor(work.outputs, "uint8"), 0, 255), work.images, shapes)
    return cuda.source(function, target)


def parse(messages: str, assembly: str) -> Code:
    """Read what ptxas says with -v, and a disassembly by nvdisasm."""
    registers = max(map(int, re.findall(r"Used (\d+) registers", messages)))
    spills = sum(map(int, re.findall(r"(\d+) bytes spill", messages)))
    lines = assembly.splitlines()
    labels: dict[str, int] = {}
    loop = range(0)
    for index, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = index
        branch = _BRANCH.search(line)
        if branch and branch[1] in labels and index - labels[branch[1]] > len(loop):
            loop = range(labels[branch[1]], index)
    # A branch to itself ends every kernel; a loop of a few lines is no loop.
    chosen = [lines[index] for index in loop] if len(loop) > 16 else lines
    return Code(
        registers, spills, Counter(m[1] for line in chosen if (m := _INSTRUCTION.match(line)))
    )


def assemble(text: str, arch: str) -> Code:
    """Compile CUDA C++ and look at the machine code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cu"
        path.write_text(text, encoding="utf-8")
        cubin = str(path.with_suffix(".cubin"))
        command = ["nvcc", "-arch", arch, "-cubin", "-O3", "-Xptxas", "-v", str(path), "-o", cubin]
        made = subprocess.run(command, capture_output=True, text=True, check=True)
        shown = subprocess.run(
            ["nvdisasm", "-c", cubin], capture_output=True, text=True, check=True
        )
    return parse(made.stderr, shown.stdout)


def main() -> int:
    """Print the table; 2 where a tool is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--arch", default="sm_80")
    arch = parser.parse_args().arch
    missing = [tool for tool in ("nvcc", "nvdisasm") if shutil.which(tool) is None]
    if missing:
        print(f"needs {' and '.join(missing)} of the CUDA toolkit on the PATH", file=sys.stderr)
        return 2
    print(
        "| layer | registers | spilled bytes | instructions of the loop | products an instruction |"
    )
    print("|---|---:|---:|---|---:|")
    for work in WORKS:
        code = assemble(source(work, CUDATarget(arch=arch)), arch)
        most = ", ".join(f"{count} {name}" for name, count in code.loop.most_common(4))
        text = f"{sum(code.loop.values())}: {most}"
        print(
            f"| {work.name} | {code.registers} | {code.spills} | {text} | {code.products:.1f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
