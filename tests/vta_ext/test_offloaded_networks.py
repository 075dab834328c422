"""Small networks of every operator on the simulated accelerator and the host, bit for bit."""

from __future__ import annotations

import pytest
from tvm import relax

from tests.relay_passes.onnx_networks import NETWORKS, converted
from tests.vta_ext.offloading import dialect_module, verify
from tvm_shiftadd import api
from tvm_shiftadd.convert import ConvertOptions
from vta_ext.config import Config
from vta_ext.offload import offload
from vta_ext.presets import BASE, SHIFT, SMALL

SLOW = [pytest.param(name, SMALL, marks=pytest.mark.slow) for name in sorted(NETWORKS)]


@pytest.mark.parametrize(("name", "config"), [*((name, SHIFT) for name in NETWORKS), *SLOW])
def test_small_networks(name: str, config: Config) -> None:
    made = converted(name)
    found = verify(made.model, made.plan, made.images, config)
    assert found.regions


@pytest.mark.parametrize(
    "name",
    [
        "residual",
        *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(NETWORKS) if n != "residual"),
    ],
)
def test_small_networks_on_vtas_own_machine(name: str) -> None:
    """In mode multiply, with int8 maps; what VTA cannot do stays on the host."""
    made = converted(name)
    options = ConvertOptions(terms=2, unsigned=False)
    plan = api.convert(made.model, made.images, options).plan
    found = verify(made.model, plan, made.images, BASE)
    assert found.regions and all("cannot run on the acc" in why for why in found.reasons.values())


def test_what_stays_on_the_host_is_named() -> None:
    """A region's own map to another layout."""
    made = converted("clipped_input")
    found = verify(made.model, made.plan, made.images, SHIFT)
    sentence = "layer clip.nhwc cannot run on the accelerator: a transposition by [0, 2, 3, 1]"
    assert found.reasons == {"clip.nhwc": sentence}


def test_regions_are_functions_for_external_code_generation() -> None:
    """One region, its function taking and returning integers; TVM makes a packed call of it."""
    made = converted("residual")
    told: list[tuple[int, int]] = []
    found = offload(
        dialect_module(made.model, made.plan), SHIFT, lambda done, of: told.append((done, of))
    )
    assert told == [(0, 1), (1, 1)]
    (region,) = found.regions
    function = found.marked["vta_region_000"]
    assert function.attrs["Codegen"] == "vta"
    assert function.attrs["global_symbol"] == region.function
    names = [str(param.name) for param in function.params]
    assert names == [value.name for value in region.network.inputs]
    relax.analysis.well_formed(found.marked)
    relax.analysis.well_formed(found.module)
    assert "vta_region_000" not in {var.name_hint for var in found.module.get_global_vars()}
    assert f'call_dps_packed("{region.function}"' in found.module.script()


def test_code_generation_needs_a_machine() -> None:
    made = converted("residual")
    found = offload(dialect_module(made.model, made.plan), SHIFT)
    with pytest.raises(Exception, match=r"call vta_ext\.offload\.offload instead of RunCodegen"):
        relax.transform.RunCodegen()(found.marked)
