"""The published forward passes of shift-add networks in PyTorch, and residual networks of them.

Written from the systems' descriptions; the importers are held against these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.importers.onnx_models import assert_same, run_tvm

#: in channels, out channels, kernel size, stride -> a layer
Make = Callable[[int, int, int, int], nn.Module]


def plain(taken: int, made: int, kernel: int, stride: int) -> nn.Module:
    return nn.Conv2d(taken, made, kernel, stride, kernel // 2, bias=False)


def floor_fixed(x: Tensor) -> Tensor:
    return torch.clamp(torch.floor(x * 2**16) / 2**16, -(2**15), 2**15 - 1)


class ShiftPS(nn.Module):
    """DeepShift-PS: a trained exponent and a trained ternary sign; 5 bits."""

    def __init__(self, taken: int, made: int, kernel: int, stride: int) -> None:
        super().__init__()
        size = (made, taken, kernel, kernel)
        self.shift = nn.Parameter(torch.rand(size) * 6 - 7)
        self.sign = nn.Parameter(torch.rand(size) * 3 - 1.5)
        self.stride, self.padding = stride, kernel // 2

    def weight(self) -> Tensor:
        exponent = torch.round(torch.clamp(self.shift, -14, 0))
        return 2.0**exponent * torch.sign(torch.round(self.sign))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(floor_fixed(x), self.weight(), None, self.stride, self.padding)


class ShiftPSLinear(nn.Module):
    def __init__(self, taken: int, made: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.rand(made, taken) * 6 - 7)
        self.sign = nn.Parameter(torch.rand(made, taken) * 3 - 1.5)
        self.bias = nn.Parameter(torch.randn(made))

    def forward(self, x: Tensor) -> Tensor:
        exponent = torch.round(torch.clamp(self.shift, -14, 0))
        return F.linear(x, 2.0**exponent * torch.sign(torch.round(self.sign)), self.bias)


class ShiftQ(nn.Conv2d):
    """DeepShift-Q: a float weight rounded to the nearest power of two in the logarithm; 5 bits."""

    def __init__(self, taken: int, made: int, kernel: int, stride: int) -> None:
        super().__init__(taken, made, kernel, stride, kernel // 2, bias=False)
        with torch.no_grad():
            self.weight[0, 0] = 0.0
            self.weight[1, 0] = 3.0
            self.weight[2, 0] = -1e-6

    def forward(self, x: Tensor) -> Tensor:
        magnitude = torch.clamp(self.weight.abs(), 2.0**-15, 1.0)
        rounded = 2.0 ** torch.round(torch.log2(magnitude)) * torch.sign(self.weight)
        return F.conv2d(floor_fixed(x), rounded, None, self.stride, self.padding)


class ShiftQLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        magnitude = torch.clamp(self.weight.abs(), 2.0**-15, 1.0)
        rounded = 2.0 ** torch.round(torch.log2(magnitude)) * torch.sign(self.weight)
        return F.linear(floor_fixed(x), rounded, self.bias)


class FixedShift(nn.Module):
    """ShiftAddNet with fixed shifts: frozen powers of two from 2^-7 to 1, some of them zero."""

    def __init__(self, taken: int, made: int, kernel: int, stride: int) -> None:
        super().__init__()
        size = (made, taken, kernel, kernel)
        self.p = nn.Parameter(torch.round(torch.rand(size) * 6 - 7))
        self.s = nn.Parameter(torch.rand(size) * 2 - 1)
        sign = torch.sign(self.s) * (self.s.abs() > 0.1)
        self.weight = nn.Parameter((2.0**self.p * sign).detach())
        self.register_buffer("mask", (self.weight != 0).float())
        self.stride, self.padding = stride, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        x = torch.round(x * 2**15) / 2**15
        return F.conv2d(x, self.weight, None, self.stride, self.padding)


class Adder(nn.Module):
    """AdderNet's layer: minus the sum of absolute differences; padding takes part as zero."""

    def __init__(self, taken: int, made: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.adder = nn.Parameter(torch.randn(made, taken, kernel, kernel))
        self.stride, self.padding = stride, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        made, _, kernel, _ = self.adder.shape
        height = (x.shape[2] + 2 * self.padding - kernel) // self.stride + 1
        width = (x.shape[3] + 2 * self.padding - kernel) // self.stride + 1
        columns = F.unfold(x, kernel, padding=self.padding, stride=self.stride)
        rows = self.adder.reshape(made, -1)
        outputs = [-(columns - row[None, :, None]).abs().sum(1) for row in rows]
        return torch.stack(outputs, 1).reshape(x.shape[0], made, height, width)


def apot_levels(bits: int) -> Tensor:
    """Sums of one entry of each set, scaled so that the largest is 1."""
    sets = {
        3: ([0, 1 / 2, 1 / 4, 1 / 16], [0, 1 / 8]),
        4: ([0, 1 / 2, 1 / 8, 1 / 32], [0, 1 / 4, 1 / 16, 1 / 64]),
    }[bits]
    levels = torch.tensor(sorted({sum(terms) for terms in product(*sets)}))
    return levels / levels.max()


def to_levels(x: Tensor, levels: Tensor) -> Tensor:
    return levels[(x.reshape(-1, 1) - levels).abs().argmin(1)].reshape(x.shape)


class APoT(nn.Conv2d):
    """APoT at 4 bits: weights normalised, clipped and rounded; inputs clipped and rounded."""

    def __init__(self, taken: int, made: int, kernel: int, stride: int) -> None:
        super().__init__(taken, made, kernel, stride, kernel // 2, bias=False)
        self.act_alpha = nn.Parameter(torch.tensor(1.5))
        self.weight_quant = nn.Module()
        self.weight_quant.wgt_alpha = nn.Parameter(torch.tensor(2.5))
        self.round_inputs = False

    def quantised(self) -> Tensor:
        alpha = self.weight_quant.wgt_alpha
        normal = (self.weight - self.weight.mean()) / self.weight.std() / alpha
        normal = normal.clamp(-1, 1)
        return to_levels(normal.abs(), apot_levels(3)) * normal.sign() * alpha

    def forward(self, x: Tensor) -> Tensor:
        x = (x / self.act_alpha).clamp(max=1)
        x = to_levels(x, apot_levels(4)) if self.round_inputs else x.clamp(min=0)
        x = x * self.act_alpha
        return F.conv2d(x, self.quantised(), None, self.stride, self.padding)


class EightBit(nn.Conv2d):
    """The first layer beside APoT."""

    def forward(self, x: Tensor) -> Tensor:
        top = self.weight.max()
        weight = (self.weight / top * 127).round() / 127 * top
        return F.conv2d(x, weight, None, self.stride, self.padding)


class EightBitLinear(nn.Linear):
    """The last layer beside APoT."""

    def forward(self, x: Tensor) -> Tensor:
        top = self.weight.max()
        return F.linear(x, (self.weight / top * 127).round() / 127 * top, self.bias)


def eight_bit(taken: int, made: int, kernel: int, stride: int) -> nn.Module:
    return EightBit(taken, made, kernel, stride, kernel // 2, bias=False)


def shift_add(shift: Make) -> Make:
    """ShiftAddNet's layer: a shift layer and an adder layer, nothing in between."""

    def make(taken: int, made: int, kernel: int, stride: int) -> nn.Module:
        return nn.Sequential(shift(taken, made, kernel, stride), Adder(made, made, kernel, 1))

    return make


class Block(nn.Module):
    def __init__(
        self, taken: int, made: int, stride: int, conv: Make, shortcut: str, bottleneck: bool
    ) -> None:
        super().__init__()
        self.count = 3 if bottleneck else 2
        out = made * 4 if bottleneck else made
        if bottleneck:
            layers = [conv(taken, made, 1, 1), conv(made, made, 3, stride), conv(made, out, 1, 1)]
        else:
            layers = [conv(taken, made, 3, stride), conv(made, made, 3, 1)]
        for index, layer in enumerate(layers, start=1):
            setattr(self, f"conv{index}", layer)
            setattr(self, f"bn{index}", nn.BatchNorm2d(out if index == self.count else made))
        self.padded = shortcut == "pad" and (stride > 1 or taken != out)
        self.stride, self.extra, self.name = stride, out - taken, shortcut
        if shortcut != "pad" and (stride > 1 or taken != out):
            inner = conv(taken, out, 1, stride)
            parts = list(inner) if isinstance(inner, nn.Sequential) else [inner]
            setattr(self, shortcut, nn.Sequential(*parts, nn.BatchNorm2d(out)))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for index in range(1, self.count + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            y = F.relu(y) if index < self.count else y
        if self.padded:
            half = self.extra // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        elif hasattr(self, self.name):
            x = getattr(self, self.name)(x)
        return F.relu(y + x)


class ResNet(nn.Module):
    """Three stages for CIFAR; four with the large stem for ImageNet.

    ``shortcut`` is the name of the shortcut's module, or ``pad`` for strided slices and zeros.
    ``head`` is a function of (inputs, classes), by the name ``fc`` or ``linear``.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        conv: Make = plain,
        *,
        stem: Make = plain,
        shortcut: str = "downsample",
        bottleneck: bool = False,
        head: Callable[[int, int], nn.Module] = nn.Linear,
        head_name: str = "fc",
        head_norm: bool = False,
        classes: int = 5,
    ) -> None:
        super().__init__()
        self.large = len(blocks) == 4
        self.conv1 = stem(3, widths[0], 7 if self.large else 3, 2 if self.large else 1)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = len(blocks)
        taken = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            made = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                made.append(Block(taken, width, stride, conv, shortcut, bottleneck))
                taken = width * 4 if bottleneck else width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        self.head_name = head_name
        setattr(self, head_name, head(taken, classes))
        if head_norm:
            self.bn2 = nn.BatchNorm2d(classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.large:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        x = F.adaptive_avg_pool2d(x, 1)
        head = getattr(self, self.head_name)
        x = head(x if not isinstance(head, (nn.Linear, ShiftPSLinear)) else x.flatten(1))
        return (self.bn2(x) if hasattr(self, "bn2") else x).flatten(1)


def settle(network: nn.Module, size: int = 16, seed: int = 0) -> Any:
    """Give the batch norms statistics of the network's own, so that nothing explodes."""
    torch.manual_seed(seed)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    with torch.no_grad():
        network(torch.randn(8, 3, size, size))
    return network.eval()


def forward(network: nn.Module, x: Any) -> Any:
    """What the network computes of an array, as an array."""
    with torch.no_grad():
        return network(torch.tensor(x)).numpy()


def assert_follows(mod: Any, network: nn.Module, size: int, tolerance: float) -> None:
    """The imported module computes what the network's own forward pass does, on random images."""
    x = np.random.default_rng(1).normal(size=(3, 3, size, size)).astype(np.float32)
    assert_same(run_tvm(mod, x), [forward(network, x)], tolerance)
