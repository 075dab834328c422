"""torch.export programs: names of modules, layers in the form the passes know, same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.importers.onnx_models import assert_same, names, operators, run_tvm
from tvm_shiftadd._compat import tirx
from tvm_shiftadd.errors import ModelError, UnsupportedOperatorError
from tvm_shiftadd.importers import load

torch = pytest.importorskip("torch")
nn = torch.nn


class Block(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, eps=1e-3)
        self.act = nn.ReLU6()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=2)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.conv2(self.act(self.bn1(self.conv1(x)))) + x)


class Net(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.layer1 = nn.Sequential(Block(4), nn.Dropout(0.5))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        x = self.up(self.pool(self.layer1(self.stem(x))))
        return self.fc(torch.flatten(self.gap(x), 1))


EXPECTED = [
    ("stem", "relax.nn.conv2d"),
    ("stem.bias", "relax.add"),
    ("layer1.0.conv1", "relax.nn.conv2d"),
    ("layer1.0.bn1.statistics", "relax.nn.batch_norm"),
    ("layer1.0.bn1", "[0]"),
    ("layer1.0.act", "relax.clip"),
    ("layer1.0.conv2", "relax.nn.conv2d"),
    ("layer1.0.conv2.bias", "relax.add"),
    ("layer1.0.add", "relax.add"),
    ("layer1.0.relu", "relax.nn.relu"),
    ("pool", "relax.nn.max_pool2d"),
    ("up", "relax.nn.conv2d_transpose"),
    ("up.bias", "relax.add"),
    ("gap", "relax.mean"),
    ("flatten", "relax.reshape"),
    ("fc", "relax.matmul"),
    ("fc.bias", "relax.add"),
]


def export(model: Any, *shape: int, dynamic: dict[int, Any] | None = None) -> Any:
    dynamic_shapes = (dynamic,) if dynamic else None
    return torch.export.export(model.eval(), (torch.zeros(shape),), dynamic_shapes=dynamic_shapes)


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def test_a_residual_network(net: Any) -> None:
    mod = load(export(net, 2, 3, 16, 16, dynamic={0: torch.export.Dim("batch", min=1, max=64)}))
    assert list(zip(names(mod), operators(mod), strict=True)) == EXPECTED

    (param,) = mod["main"].params
    assert param.name == "x"
    assert isinstance(param.ty.shape.values[0], tirx.Var)
    attrs = mod["main"].attrs
    assert attrs["shiftadd.source"]["format"] == "torch"
    assert attrs["shiftadd.operators"]["layer1.0.bn1"] == "batch_norm"

    x = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    assert_same(run_tvm(mod, x), [want])


def test_the_hash_follows_the_weights(net: Any) -> None:
    def digest() -> str:
        return str(load(export(net, 1, 3, 16, 16))["main"].attrs["shiftadd.source"]["sha256"])

    before = digest()
    assert digest() == before
    with torch.no_grad():
        net.fc.bias.add_(1.0)
    assert digest() != before


def test_several_outputs() -> None:
    class Two(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            a = torch.relu(x)
            return a + 1.0, a

    mod = load(export(Two(), 2, 3))
    assert list(mod["main"].attrs["shiftadd.outputs"]) == ["add", "relu"]
    x = np.array([[1, -2, 3], [0, -1, 4]], np.float32)
    assert_same(run_tvm(mod, x), [np.maximum(x, 0) + 1, np.maximum(x, 0)])


def test_bad_programs() -> None:
    with pytest.raises(ModelError, match="call torch"):
        load(nn.Linear(2, 2))

    broken = nn.Linear(2, 2)
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="Tensor 'weight' holds NaN"):
        load(export(broken, 1, 2))

    program = torch.export.export(nn.Embedding(4, 2), (torch.zeros(3, dtype=torch.int64),))
    with pytest.raises(ModelError, match="is int64"):
        load(program)

    height = {2: torch.export.Dim("height", min=4, max=64)}
    with pytest.raises(ModelError, match="leaves axis 2 open"):
        load(export(nn.ReLU(), 1, 3, 8, 8, dynamic=height))


def test_batch_statistics_are_refused() -> None:
    program = torch.export.export(nn.BatchNorm2d(3).train(), (torch.zeros(2, 3, 4, 4),))
    with pytest.raises(UnsupportedOperatorError, match="uses the batch's statistics"):
        load(program)


def test_unknown_operator_is_named_with_its_module() -> None:
    class Odd(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return torch.linalg.matrix_exp(x)

    with pytest.raises(UnsupportedOperatorError, match="matrix_exp"):
        load(export(nn.Sequential(Odd()), 1, 4, 4))


def test_forms_that_tvm_alone_does_not_import() -> None:
    """Padding given as a word, and an operator that only PyTorch can break up."""

    class Words(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Conv2d(3, 4, (5, 3), padding="same", dilation=(1, 2))
            self.valid = nn.Conv2d(4, 4, 3, padding="valid", groups=4)
            self.norm = nn.BatchNorm2d(4, eps=0.1)
            self.shuffle = nn.ChannelShuffle(2)

        def forward(self, x: Any) -> Any:
            return self.shuffle(self.norm(self.valid(self.same(x))))

    model = Words().eval()
    mod = load(export(model, 1, 3, 8, 8))
    assert names(mod)[:4] == ["same", "same.bias", "valid", "valid.bias"]
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        want = model(torch.from_numpy(x)).numpy()
    assert_same(run_tvm(mod, x), [want])
