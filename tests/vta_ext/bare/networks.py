"""A small network with borders of every kind, as regions with the host's part."""

from __future__ import annotations

import numpy as np

from tests.vta_ext.bare.runtime import Floats
from tests.vta_ext.region_cases import RegionCase
from tvm_shiftadd.formats import reference
from vta_ext.compiler.compile import compile_network
from vta_ext.config import Config
from vta_ext.host import HostPart, HostStep, HostTensor
from vta_ext.runtime.device import SimulatorDevice
from vta_ext.runtime.executor import RegionExecutor
from vta_ext.runtime.regions import Regions
from vta_ext.runtime.stored import StoredRegion

CHANNELS = 5
#: The input's scale, and those of the outputs: of each channel, and of the whole.
IN, WIDE, STORED = 4, (3, -2, 7, 0, 12), 6
NAMES = (["image"], ["wide", "stored"])


def made(config: Config, dtype: str = "int8") -> Regions:
    """A convolution; its sums as NCHW, and its result of ``dtype`` flattened, are outputs."""
    c = RegionCase(np.random.default_rng(3))
    x = c.input(6, 5, 3)
    sums = c.conv2d(x, CHANNELS, terms=1)
    stored = c.requantize(sums, dtype=dtype)
    network = c.network(sums, stored)
    region = StoredRegion.of("vta_region_000", network, compile_network(network, config))
    count = 30 * CHANNELS
    steps = (
        HostStep("permute", "image", HostTensor("nhwc", (6, 5, 3), "float32"), (0, 2, 3, 1)),
        HostStep("quantize", "nhwc", HostTensor(x, (6, 5, 3), "int8"), (IN,)),
        HostStep("dequantize", sums, HostTensor("sums", (6, 5, CHANNELS), "float32"), WIDE),
        HostStep("permute", "sums", HostTensor("nchw", (CHANNELS, 6, 5), "float32"), (0, 3, 1, 2)),
        HostStep("reshape", stored, HostTensor("flat", (count,), dtype)),
        HostStep("dequantize", "flat", HostTensor("values", (count,), "float32"), (STORED,)),
        HostStep("alias", "values", HostTensor("gv", (count,), "float32")),
    )
    host = HostPart((HostTensor("image", (3, 6, 5), "float32"),), steps, ("nchw", "gv"))
    return Regions(config, (region,), host=host)


def expected(regions: Regions, images: Floats) -> tuple[Floats, Floats]:
    """Both outputs, flat, for images ``[N, 3, 6, 5]``."""
    (region,) = regions.regions
    stored = reference.quantize(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), IN)
    results = RegionExecutor(region, SimulatorDevice(regions.config)).run(
        {region.arguments[0].name: stored}
    )
    sums, values = (results[one.name] for one in region.results)
    wide = reference.dequantize(sums, np.array(WIDE, np.int32)).transpose(0, 3, 1, 2)
    flat = reference.dequantize(values, np.array([STORED], np.int32))
    return wide.reshape(len(images), -1), flat.reshape(len(images), -1)
