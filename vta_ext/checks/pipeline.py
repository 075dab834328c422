"""The accumulator pipeline: a micro-op must not read what an earlier one has not yet written.

There is no interlock. A written accumulator may be read ``acc_latency`` micro-ops later; the
pipeline is empty between instructions.
"""

from __future__ import annotations

import numpy as np

from vta_ext.config import Config
from vta_ext.isa import access
from vta_ext.isa.instruction import Instruction


def hazard(
    instruction: Instruction,
    index: dict[str, access.Index],
    found: dict[str, access.Operand],
    config: Config,
) -> str:
    """What is wrong with the accumulators of a GEMM or ALU instruction; empty if nothing.

    ``index`` are the entries of each operand, in the order of micro-ops.
    """
    dst = index["dst"]
    keeps = access.keeps_from(instruction)
    reads = [] if keeps is None else [("dst", dst, keeps)]
    if "src" in found and found["src"].memory == "acc":
        reads += [("src", index["src"] + k, 0) for k in range(found["src"].count)]
    for distance in range(1, min(config.acc_latency, len(dst))):
        for name, entries, start in reads:
            clash = dst[:-distance] == entries[distance:]
            clash[: max(start - distance, 0)] = False
            if clash.any():
                first = int(np.argmax(clash))
                return (
                    f"{name} of micro-op {first + distance} reads accumulator "
                    f"{int(dst[first])}, which micro-op {first} writes; there must be "
                    f"{config.acc_latency} micro-ops from one to the other"
                )
    return ""
