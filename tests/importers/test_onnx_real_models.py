"""The real models: onnxruntime's numbers, unique names, and no operator outside a known set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.importers.onnx_models import (
    assert_same,
    names,
    operators,
    random,
    run_onnxruntime,
    run_tvm,
)
from tvm_shiftadd.importers import load

pytestmark = pytest.mark.data

#: Model, the shape of one input, a name that must be there, operators it must come down to.
MODELS = {
    "cifar10_akamaster_resnet20": ((1, 3, 32, 32), "/layer2/layer2.0/shortcut/Pad", 76),
    "imagenet_mobilenet_v1_0.25_224": ((1, 3, 224, 224), "conv_dw_1/depthwise_kernel", 112),
    "imagenet_mobilenet_v2_1.0_224_qat_dequant": ((1, 3, 224, 224), "conv_3", 153),
    "mlperftiny_ic_resnet8": ((1, 3, 32, 32), "gemm_42", 32),
    "mnist_lenet_germanov": ((1, 1, 28, 28), "/net/net.7/Gemm", 17),
    "style_transfer_udnie_224": ((1, 3, 224, 224), "in46", 51),
    "superres_espcn_x3_224": ((1, 1, 224, 224), "15", 14),
    "ultraface_slim_320": ((1, 3, 240, 320), "boxes", 182),
}

KNOWN = {
    "[0]",
    "relax.add",
    "relax.clip",
    "relax.concat",
    "relax.divide",
    "relax.exp",
    "relax.matmul",
    "relax.mean",
    "relax.multiply",
    "relax.nn.batch_norm",
    "relax.nn.conv2d",
    "relax.nn.conv2d_transpose",
    "relax.nn.instance_norm",
    "relax.nn.max_pool2d",
    "relax.nn.pad",
    "relax.nn.relu",
    "relax.nn.softmax",
    "relax.permute_dims",
    "relax.reshape",
    "relax.strided_slice",
    "relax.subtract",
    "relax.tanh",
}


@pytest.mark.parametrize("model", MODELS)
def test_import(data_dir: Path, model: str) -> None:
    _, name, count = MODELS[model]
    mod = load(data_dir / "models" / f"{model}.onnx")
    assert set(operators(mod)) <= KNOWN
    assert len(operators(mod)) == count
    found = names(mod)
    assert name in found and len(set(found)) == len(found)
    assert [param.name for param in mod["main"].params] == ["input"]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_numbers_are_those_of_onnxruntime(data_dir: Path, model: str) -> None:
    path = data_dir / "models" / f"{model}.onnx"
    x = random(*MODELS[model][0])
    assert_same(run_tvm(load(path), x), run_onnxruntime(str(path), x), tolerance=1e-3)
