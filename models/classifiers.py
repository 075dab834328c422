"""Writes networks of well-known shapes with random weights as ONNX, for measuring time.

    python models/classifiers.py FOLDER [resnet18 resnet50 mobilenet_v1 mobilenet_v2 resnet20]

Batch norm is folded into the convolutions, as it is in any network made for inference. Weights
are drawn so that activations keep their size from layer to layer, which is what a trained network
looks like to a quantiser. The input is float [1, 3, 224, 224] (ResNet-20: [1, 3, 32, 32]), the
output 1,000 (10) scores.

Shapes: He et al., Deep Residual Learning, 2015 (stride in the 3x3 convolution of a bottleneck);
Howard et al., MobileNets, 2017, width 0.25; Sandler et al., MobileNetV2, 2018, width 1.0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Builder:
    """An ONNX graph, written node by node; every method returns the name of its result."""

    def __init__(self, size: int, channels: int = 3) -> None:
        self._rng = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self.input = "image"
        self._shape = [1, channels, size, size]
        self.channels = {self.input: channels}

    def _node(self, op: str, inputs: list[str], channels: int, **attributes: object) -> str:
        name = f"{op.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        self.channels[name] = channels
        return name

    def _constant(self, name: str, values: np.ndarray) -> str:
        self._constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(
        self, x: str, outputs: int, kernel: int, stride: int = 1, groups: int = 1, gain: float = 2
    ) -> str:
        """A convolution with bias, padded by half a window."""
        inputs = self.channels[x] // groups
        name = f"conv{len(self._nodes)}"
        spread = (gain / (inputs * kernel * kernel)) ** 0.5
        weight = self._rng.normal(0, spread, (outputs, inputs, kernel, kernel))
        bias = self._rng.normal(0, 0.1, outputs)
        names = [self._constant(f"{name}.weight", weight), self._constant(f"{name}.bias", bias)]
        where = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": groups}
        return self._node("Conv", [x, *names], outputs, kernel_shape=[kernel] * 2, **where)

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self._node("Relu", [x], self.channels[x])

    def relu6(self, x: str) -> str:
        """x limited to 0..6."""
        bounds = [self._constant(f"bound{len(self._nodes)}.{v}", np.float32(v)) for v in (0, 6)]
        return self._node("Clip", [x, *bounds], self.channels[x])

    def add(self, x: str, y: str) -> str:
        """x + y."""
        return self._node("Add", [x, y], self.channels[x])

    def max_pool(self, x: str) -> str:
        """3x3, stride 2, padding 1."""
        where = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
        return self._node("MaxPool", [x], self.channels[x], **where)

    def classify(self, x: str, classes: int) -> onnx.ModelProto:
        """The model: mean over the map, then a dense layer."""
        channels = self.channels[x]
        pooled = self._node("GlobalAveragePool", [x], channels)
        flat = self._node("Flatten", [pooled], channels)
        weight = self._rng.normal(0, channels**-0.5, (classes, channels))
        names = [
            self._constant("classifier.weight", weight),
            self._constant("classifier.bias", np.zeros(classes)),
        ]
        scores = self._node("Gemm", [flat, *names], classes, transB=1)
        graph = helper.make_graph(
            self._nodes,
            "classifier",
            [helper.make_tensor_value_info(self.input, TensorProto.FLOAT, self._shape)],
            [helper.make_tensor_value_info(scores, TensorProto.FLOAT, [1, classes])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def _shortcut(net: Builder, x: str, outputs: int, stride: int) -> str:
    if stride == 1 and net.channels[x] == outputs:
        return x
    return net.conv(x, outputs, 1, stride, gain=1)


def _basic(net: Builder, x: str, width: int, stride: int) -> str:
    y = net.relu(net.conv(x, width, 3, stride))
    y = net.conv(y, width, 3, gain=0.5)
    return net.relu(net.add(y, _shortcut(net, x, width, stride)))


def _bottleneck(net: Builder, x: str, width: int, stride: int) -> str:
    y = net.relu(net.conv(x, width, 1))
    y = net.relu(net.conv(y, width, 3, stride))
    y = net.conv(y, 4 * width, 1, gain=0.5)
    return net.relu(net.add(y, _shortcut(net, x, 4 * width, stride)))


def _residual(block: Callable[..., str], counts: tuple[int, ...]) -> onnx.ModelProto:
    net = Builder(224)
    x = net.max_pool(net.relu(net.conv(net.input, 64, 7, 2)))
    for stage, count in enumerate(counts):
        for index in range(count):
            x = block(net, x, 64 << stage, 2 if stage and not index else 1)
    return net.classify(x, 1000)


def resnet18() -> onnx.ModelProto:
    """ResNet-18 for 224 x 224 pixels."""
    return _residual(_basic, (2, 2, 2, 2))


def resnet50() -> onnx.ModelProto:
    """ResNet-50 for 224 x 224 pixels."""
    return _residual(_bottleneck, (3, 4, 6, 3))


def resnet20() -> onnx.ModelProto:
    """ResNet-20 for 32 x 32 pixels, with convolutions as shortcuts."""
    net = Builder(32)
    x = net.relu(net.conv(net.input, 16, 3))
    for stage in range(3):
        for index in range(3):
            x = _basic(net, x, 16 << stage, 2 if stage and not index else 1)
    return net.classify(x, 10)


def mobilenet_v1() -> onnx.ModelProto:
    """MobileNetV1, width 0.25, for 224 x 224 pixels."""
    net = Builder(224)
    x = net.relu6(net.conv(net.input, 8, 3, 2))
    for outputs, stride in (
        *((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2)),
        *((128, 1) for _ in range(5)),
        *((256, 2), (256, 1)),
    ):
        inputs = net.channels[x]
        x = net.relu6(net.conv(x, inputs, 3, stride, groups=inputs))
        x = net.relu6(net.conv(x, outputs, 1))
    return net.classify(x, 1000)


def mobilenet_v2() -> onnx.ModelProto:
    """MobileNetV2, width 1.0, for 224 x 224 pixels."""
    net = Builder(224)
    x = net.relu6(net.conv(net.input, 32, 3, 2))
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
    for expand, outputs, count, first in (*rows, (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for index in range(count):
            inputs, stride = net.channels[x], first if index == 0 else 1
            hidden = inputs * expand
            y = net.relu6(net.conv(x, hidden, 1)) if expand > 1 else x
            y = net.relu6(net.conv(y, hidden, 3, stride, groups=hidden))
            y = net.conv(y, outputs, 1, gain=1)
            x = net.add(x, y) if stride == 1 and inputs == outputs else y
    return net.classify(net.relu6(net.conv(x, 1280, 1)), 1000)


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet20": resnet20,
}


def main() -> None:
    """Write the models named on the command line, or all."""
    if len(sys.argv) < 2:
        raise SystemExit(f"usage: classifiers.py FOLDER [{' '.join(MODELS)}]")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or MODELS:
        onnx.save(MODELS[name](), folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
