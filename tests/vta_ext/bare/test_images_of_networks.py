"""Small networks as images: the bits of the integer reference, or a refusal that says why."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.relay_passes.onnx_networks import Converted, converted
from tests.vta_ext.bare.networks import NAMES, made
from tests.vta_ext.bare.runtime import Board, opened
from tests.vta_ext.offloading import dialect_module
from tvm_shiftadd.errors import InputError, ProgramError
from vta_ext.bare.make import Named, c_header, make
from vta_ext.compiler import frontend
from vta_ext.host import HostPart, HostStep, HostTensor
from vta_ext.offload import offload
from vta_ext.presets import SHIFT, SMALL
from vta_ext.runtime.regions import Regions


def image_of(network: Converted) -> Named:
    found = offload(dialect_module(network.model, network.plan), SHIFT)
    stored = tuple(region.stored() for region in found.regions)
    regions = Regions(SHIFT, stored, host=frontend.host(found.marked["main"]))
    graph = network.model.graph
    return make(regions, graph.inputs, graph.outputs)


@pytest.mark.parametrize(
    "name",
    [
        "two_outputs",
        pytest.param("concatenated", marks=pytest.mark.slow),
        pytest.param("upsampling", marks=pytest.mark.slow),
        pytest.param("residual", marks=pytest.mark.slow),
    ],
)
def test_networks(name: str) -> None:
    network = converted(name)
    image = image_of(network).image
    runtime = opened(image, Board(SHIFT, image.arena_bytes))
    wanted = network.expected()
    for number, one in enumerate(network.images):
        assert runtime.write(0, one) == "OK"
        assert runtime.run() == "OK"
        for output, results in enumerate(wanted):
            found = runtime.read(output, results[number].size)
            assert found.tobytes() == np.ascontiguousarray(results[number]).tobytes()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "hosted",
            r"more to do than the runtime can: relax\.sigmoid \(gate\), "
            r"relax\.multiply \(scaled\), relax\.nn\.softmax \(softmax\); run",
        ),
        ("clipped_input", r"the artifact has 2, with permute \(clip\.nhwc\) between them"),
    ],
)
def test_work_for_the_host_is_refused_by_name(name: str, words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        image_of(converted(name))


def altered(place: int, step: HostStep) -> Regions:
    """The small network with one step of its host replaced."""
    regions = made(SMALL)
    assert regions.host is not None
    steps = list(regions.host.steps)
    steps[place] = step
    return Regions(SMALL, regions.regions, host=replace_steps(regions.host, steps))


def replace_steps(host: HostPart, steps: list[HostStep]) -> HostPart:
    return HostPart(host.inputs, tuple(steps), host.outputs)


def tensor(name: str, *shape: int, dtype: str = "float32") -> HostTensor:
    return HostTensor(name, shape, dtype)


#: A step of the small network's host by its place, another one there, and words of the refusal.
REFUSED = {
    "batch moved": (
        *(0, HostStep("permute", "image", tensor("nhwc", 6, 5, 3), (2, 0, 3, 1))),
        "permute makes nhwc of several images",
    ),
    "images joined": (
        *(0, HostStep("reshape", "image", tensor("nhwc", 6, 5, 6))),
        "reshape makes nhwc of several images",
    ),
    "images split": (
        *(3, HostStep("reshape", "image", tensor("nchw", 5, 6, 5))),
        "reshape makes nchw of several images",
    ),
    "not all of it": (
        *(6, HostStep("alias", "image", tensor("gv", 150))),
        "output gv is no result of the program",
    ),
    "not scaled": (
        *(6, HostStep("alias", "flat", tensor("gv", 150))),
        "output gv is not the whole result of the program, dequantised",
    ),
    "scaled by row": (
        *(3, HostStep("dequantize", "sums", tensor("nchw", 6, 5, 5), (1, 2, 3, 4, 5))),
        "nchw is quantised or dequantised for the second time",
    ),
    "other": (
        *(6, HostStep("relax.nn.softmax", "", tensor("gv"))),
        r"relax\.nn\.softmax \(gv\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_borders_that_are_refused(name: str) -> None:
    place, step, words = REFUSED[name]
    with pytest.raises(ProgramError, match=words):
        make(altered(place, step), *NAMES)


def test_scales_that_are_not_of_channels_are_refused() -> None:
    """One for each value of a flattened map, which differ between its positions."""
    step = HostStep("dequantize", "flat", tensor("values", 150), tuple(n % 7 for n in range(150)))
    with pytest.raises(ProgramError, match="scales that are not those of channels"):
        make(altered(5, step), *NAMES)
    same = HostStep("dequantize", "flat", tensor("values", 150), (1, 2, 3, 4, 5) * 30)
    assert make(altered(5, same), *NAMES).image.outputs[1].exponents == (1, 2, 3, 4, 5)


def test_an_order_without_strides_is_refused() -> None:
    """Rows of 15 where the map has rows of 5: transposed, these are no steps of one length."""
    regions = made(SMALL)
    assert regions.host is not None
    first = HostStep("reshape", "image", tensor("rows", 15, 6))
    turned = HostStep("permute", "rows", tensor("turned", 6, 15), (0, 2, 1))
    back = HostStep("reshape", "turned", tensor("nhwc", 6, 5, 3))
    fits = make(with_first(regions, first, turned, back), *NAMES)
    assert fits.image.ports[0].strides == (1, 18, 6)
    first = HostStep("reshape", "image", tensor("rows", 9, 10))
    turned = HostStep("permute", "rows", tensor("turned", 10, 9), (0, 2, 1))
    with pytest.raises(ProgramError, match="in an order that has no strides"):
        make(with_first(regions, first, turned, back), *NAMES)


def with_first(regions: Regions, *steps: HostStep) -> Regions:
    """The network with these steps in the place of the first."""
    assert regions.host is not None
    host = replace_steps(regions.host, [*steps, *regions.host.steps[1:]])
    return Regions(regions.config, regions.regions, host=host)


def test_inputs_that_are_refused() -> None:
    regions = made(SMALL)
    host = regions.host
    assert host is not None
    for given, words in (
        (tensor("image", -1, 6, 5), "the runtime needs every size"),
        (tensor("image", 3, 6, 5, dtype="int8"), "expected input image to be float32"),
    ):
        changed = HostPart((given,), host.steps, host.outputs)
        with pytest.raises(ProgramError, match=words):
            make(Regions(SMALL, regions.regions, host=changed), *NAMES)
    unread = HostPart((*host.inputs, tensor("more", 4)), host.steps, host.outputs)
    with pytest.raises(ProgramError, match=r"expected input more to be .* in one way, .* in 0"):
        make(Regions(SMALL, regions.regions, host=unread), ["image", "more"], NAMES[1])
    with pytest.raises(ProgramError, match="does not say what the host does; compile"):
        make(Regions(SMALL, regions.regions), *NAMES)


def test_an_unsafe_program_is_refused() -> None:
    """The runtime cannot see what a program would do to memory; here it is proved."""
    regions = made(SMALL)
    (region,) = regions.regions
    program = replace(region.program, sections=region.program.sections[:-1])
    unsafe = Regions(SMALL, (replace(region, program=program),), host=regions.host)
    with pytest.raises(ProgramError, match=r"vta_region_000: .*compile it again"):
        make(unsafe, *NAMES)


def test_the_header_of_an_image() -> None:
    named = make(made(SMALL), ["1st image"], ["y", "Y"])
    size = len(named.image.to_bytes())
    assert c_header(named, "my-net") == (
        "/* Made by `tvm-shiftadd image`; belongs to the image of that size and CRC. */\n"
        "#ifndef MY_NET_H\n#define MY_NET_H\n\n"
        f"#define MY_NET_IMAGE_BYTES {size}u\n"
        f"#define MY_NET_IMAGE_CRC 0x{named.image.crc:08x}u\n"
        f"#define MY_NET_ARENA_BYTES {named.image.arena_bytes}u\n"
        "#define MY_NET_ARENA_ALIGNMENT 256u\n"
        "#define MY_NET_BATCH 1u\n"
        "#define MY_NET_INPUT_N1ST_IMAGE 0u\n"
        "#define MY_NET_INPUT_N1ST_IMAGE_ELEMENTS 90u\n"
        "#define MY_NET_INPUT_N1ST_IMAGE_EXPONENT 4\n"
        "#define MY_NET_OUTPUT_Y_0 0u\n"
        "#define MY_NET_OUTPUT_Y_0_ELEMENTS 150u\n"
        "#define MY_NET_OUTPUT_Y_1 1u\n"
        "#define MY_NET_OUTPUT_Y_1_ELEMENTS 150u\n"
        "\n#endif\n"
    )


def test_the_macros_of_a_header_all_differ() -> None:
    """A name may end as the macros of another one do."""
    named = make(made(SMALL), *NAMES)
    for outputs in (["y", "y_elements"], ["y-elements", "Y"], ["y", "z"]):
        text = c_header(Named(named.image, ("x",), tuple(outputs)), "net")
        macros = re.findall(r"^#define (\w+)", text, re.MULTILINE)
        assert len(set(macros)) == len(macros)
    assert "#define NET_OUTPUT_Z 1u\n" in text


@pytest.mark.parametrize("name", ["shiftadd", "shiftadd_layout", "ShiftAdd-Internal"])
def test_a_header_with_the_runtimes_own_macros_is_refused(name: str) -> None:
    """Else its include guard would leave out the runtime's."""
    named = make(made(SMALL), *NAMES)
    with pytest.raises(InputError, match="would begin with SHIFTADD_"):
        c_header(named, name)
    assert "SHIFTADDER_IMAGE_BYTES" in c_header(named, "shiftadder")
