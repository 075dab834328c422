"""From the keys of a checkpoint to its layers, each with the weights that it multiplies with.

What training keeps (a latent float weight, a learned exponent) is not what the layer multiplies
with. Each function here computes the latter from the former, as the system's own code does:

- DeepShift-PS: ``2^round(clamp(shift)) * sign(round(sign))``, from ``.shift`` and ``.sign``
- DeepShift-Q: ``sign(w) * 2^round(log2 clamp(|w|))``, from ``.weight``; the keys do not tell
- ShiftAddNet: DeepShift-PS layers each followed by an adder layer (``.adder``); in its fixed-shift
  form ``.weight`` is a power of two already, which is checked
- AdderNet: ``.adder``, and a bias ``.b``
- APoT: the normalised weight rounded to sums of powers of two times a learned clipping value
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ModelError

Floats = NDArray[np.float32]
Leaves = Mapping[str, Floats]

#: What ``weights=`` may say; None lets the keys decide.
SCHEMES = ("float", "deepshift-q", "apot-2", "apot-3", "apot-4", "apot-5")

#: What training leaves in a file that has no part in the forward pass.
_IGNORED = frozenset({"num_batches_tracked", "total_ops", "total_params"})

#: Exponents of DeepShift's weights at five bits, and the next wider ones.
_PS_LOWEST, _PS_LOWEST_WIDE, _Q_LOWEST = -14, -30, -15


@dataclass(frozen=True)
class Layer:
    """A layer with weights: ``conv2d`` (OIHW), ``adder2d`` (OIHW) or ``dense`` ([O, I]).

    clip: the layer's input is clipped to [0, clip] first, None where it is not.
    """

    operator: str
    weight: Floats
    bias: Floats | None = None
    clip: float | None = None


@dataclass(frozen=True)
class BatchNorm:
    """Batch norm over axis 1, with the epsilon 1e-5 that all these systems leave as it is."""

    gamma: Floats
    beta: Floats
    mean: Floats
    variance: Floats


@dataclass(frozen=True)
class Network:
    """Layers by the path of their module, in the file's order; ``form`` says what the file is."""

    layers: Mapping[str, Layer | BatchNorm]
    form: str
    notes: tuple[str, ...]


def interpret(tensors: Mapping[str, Floats], scheme: str | None) -> Network:
    """The layers of a checkpoint.

    Args:
        tensors: float32 arrays by key.
        scheme: one of :data:`SCHEMES`, or None to tell by the keys.

    Raises:
        ModelError: keys that belong to no known kind of layer, or tensors that do not fit them.
    """
    if scheme is not None and scheme not in SCHEMES:
        raise ModelError(
            f"Expected weights to be one of {', '.join(SCHEMES)}, but got '{scheme}': leave it "
            "out to tell by the keys."
        )
    return _Interpreter(_by_module(tensors), scheme).run()


def _by_module(tensors: Mapping[str, Floats]) -> dict[str, dict[str, Floats]]:
    modules: dict[str, dict[str, Floats]] = {}
    for key, value in tensors.items():
        path, _, leaf = key.rpartition(".")
        # APoT's quantiser and ShiftAddNet's measurement are modules inside the layer.
        for inner in ("weight_quant", "quantize_input_fw"):
            if path.endswith(f".{inner}"):
                path, leaf = path[: -len(inner) - 1], f"{inner}.{leaf}"
        if leaf not in _IGNORED and not leaf.startswith("quantize_input_fw."):
            modules.setdefault(path, {})[leaf] = value
    return modules


class _Interpreter:
    def __init__(self, modules: Mapping[str, Leaves], scheme: str | None) -> None:
        self._modules = modules
        self._scheme = scheme
        self._notes: list[str] = []
        leaves = {leaf for module in modules.values() for leaf in module}
        self._apot = "act_alpha" in leaves
        self._fixed_shift = {"p", "s"} <= leaves
        self._shift = "shift" in leaves
        self._adder = "adder" in leaves
        given = scheme or ""
        self._bits = int(given[5:]) if given.startswith("apot-") else 4

    def run(self) -> Network:
        layers = {path: self._layer(path, module) for path, module in self._modules.items()}
        form = self._form(layers)
        if self._apot and self._scheme is None:
            self._notes.append(
                "APoT: taken as 4 bits, because the file does not say; give weights='apot-N' for N"
            )
        if self._shift or self._scheme == "deepshift-q":
            self._notes.append(
                "DeepShift: rounding of activations to 2^-16 left out; this compiler chooses its "
                "own scales"
            )
        return Network(layers, form, tuple(self._notes))

    def _form(self, layers: Mapping[str, Layer | BatchNorm]) -> str:
        adders = any(
            isinstance(layer, Layer) and layer.operator == "adder2d" for layer in layers.values()
        )
        if self._apot:
            return f"APoT, {self._bits} bits"
        if self._fixed_shift:
            return "ShiftAddNet, fixed shift"
        if self._shift:
            return "ShiftAddNet" if adders else "DeepShift-PS"
        if self._scheme == "deepshift-q":
            return "DeepShift-Q"
        return "AdderNet" if adders else "float"

    def _layer(self, path: str, leaves: Leaves) -> Layer | BatchNorm:
        names = set(leaves)
        if "running_mean" in names:
            return _batch_norm(path, leaves)
        if {"shift", "sign"} <= names:
            _only(path, names, {"shift", "sign", "bias"})
            return self._power_of_two(path, leaves)
        if "adder" in names:
            _only(path, names, {"adder", "b", "adder_mask", "s"})
            adder = leaves["adder"] * leaves.get("adder_mask", np.float32(1))
            return Layer("adder2d", _kernel(path, adder), _bias(path, leaves.get("b"), adder))
        if "act_alpha" in names:
            return self._apot_layer(path, leaves)
        if "weight" in names:
            _only(path, names, {"weight", "bias", "p", "s", "mask"})
            return self._plain(path, leaves)
        raise ModelError(
            f"The checkpoint's key '{path}.{min(names)}' belongs to no known kind of layer: "
            "expected those of Conv2d, Linear and BatchNorm2d, or of DeepShift, ShiftAddNet, "
            "AdderNet and APoT."
        )

    def _plain(self, path: str, leaves: Leaves) -> Layer:
        weight = leaves["weight"]
        bias = _bias(path, leaves.get("bias"), weight)
        operator = _operator(path, weight)
        if {"p", "s"} <= set(leaves):
            _check_powers_of_two(path, weight)
        elif self._follows_shift(path) and operator == "conv2d":
            return Layer("adder2d", weight, bias)
        elif self._scheme == "deepshift-q":
            weight = deepshift_q(weight)
            bias = _layer_bias(operator, bias)
        elif self._apot:
            weight = eight_bit(weight)
        return Layer(operator, weight, bias)

    def _follows_shift(self, path: str) -> bool:
        """Whether this is the adder of ``Sequential(shift, adder)``; older files call it weight."""
        parent, _, index = path.rpartition(".")
        before = self._modules.get(f"{parent}.0", {})
        return index == "1" and bool({"shift", "p"} & set(before))

    def _power_of_two(self, path: str, leaves: Leaves) -> Layer:
        shift, sign = leaves["shift"], leaves["sign"]
        if shift.shape != sign.shape:
            raise ModelError(
                f"Layer '{path}' has shifts of shape {list(shift.shape)} but signs of shape "
                f"{list(sign.shape)}: the checkpoint is damaged."
            )
        weight = deepshift_ps(shift, sign)
        operator, bias = _operator(path, weight), _bias(path, leaves.get("bias"), weight)
        return Layer(operator, weight, _layer_bias(operator, bias))

    def _apot_layer(self, path: str, leaves: Leaves) -> Layer:
        _only(path, set(leaves), {"weight", "bias", "act_alpha", *_WEIGHT_ALPHA})
        alphas = [leaves[name] for name in _WEIGHT_ALPHA if name in leaves]
        if "weight" not in leaves or len(alphas) != 1:
            raise ModelError(
                f"Layer '{path}' has an activation's clipping value but no weight with one: the "
                "checkpoint is damaged."
            )
        weight, act = leaves["weight"], leaves["act_alpha"]
        if act.size != 1 or alphas[0].size != 1 or act.item() <= 0 or alphas[0].item() <= 0:
            raise ModelError(f"Layer '{path}' needs one positive clipping value each for both.")
        quantised = apot(weight, alphas[0].item(), self._bits)
        bias = _bias(path, leaves.get("bias"), weight)
        self._notes.append(
            f"{path}: rounding of the input to {self._bits}-bit APoT left out, clipped to "
            f"[0, {act.item():.6g}]"
        )
        return Layer(_operator(path, weight), quantised, bias, act.item())


_WEIGHT_ALPHA = ("weight_quant.wgt_alpha", "weight_alpha")


def deepshift_ps(shift: Floats, sign: Floats) -> Floats:
    """Weights of DeepShift-PS: float32, each 0 or +-2^n with n in -14 to 0.

    The file does not say how many bits a weight had. A clamp at five bits changes nothing for
    fewer, whose shifts were clamped in training; more are seen by shifts that lie far below.
    """
    lowest = _PS_LOWEST if shift.size == 0 or shift.min() > _PS_LOWEST - 1.5 else _PS_LOWEST_WIDE
    exponent = np.rint(np.clip(shift, lowest, 0)).astype(np.int32)
    return np.ldexp(np.sign(np.rint(sign)), exponent).astype(np.float32)


def deepshift_q(weight: Floats) -> Floats:
    """Weights of DeepShift-Q: float32, each 0 or +-2^n with n in -15 to 0, zero staying zero."""
    magnitude = np.clip(np.abs(weight), np.float32(2.0**_Q_LOWEST), np.float32(1))
    exponent = np.rint(np.log2(magnitude)).astype(np.int32)
    return np.ldexp(np.sign(weight), exponent).astype(np.float32)


def apot_levels(bits: int) -> Floats:
    """The non-negative levels of an APoT quantiser of ``bits`` bits, ascending, 1 the largest.

    Each level is a sum of one entry of each set, over the largest such sum. An entry is 0 or one
    of three powers of two, dealt out to the sets in turn. 1-bit weights are 0 and 1.
    """
    powers: dict[int, tuple[tuple[int, ...], ...]] = {
        1: ((0,),),
        2: ((1, 2, 3),),
        3: ((1, 2, 4), (3,)),
        4: ((1, 3, 5), (2, 4, 6)),
        5: ((1, 3, 6), (2, 4, 7), (5,)),
    }
    sets = [(0.0, *(2.0**-power for power in chosen)) for chosen in powers[bits]]
    sums = np.unique(np.array([sum(terms) for terms in product(*sets)], np.float32))
    return sums * (np.float32(1) / sums[-1])


def apot(weight: Floats, alpha: float, bits: int) -> Floats:
    """Weights of an APoT layer: normalised, clipped at ``alpha``, rounded to the nearest level.

    A weight of ``bits`` bits is a sign and a level of one bit less.
    """
    wide = weight.astype(np.float64)
    normal = ((weight - np.float32(wide.mean())) / np.float32(wide.std(ddof=1))).astype(np.float32)
    scaled = np.clip(normal / np.float32(alpha), -1, 1)
    levels = apot_levels(bits - 1)
    middles = (levels[1:] + levels[:-1]) / 2
    # A weight in the middle goes to the lower level.
    nearest = levels[np.searchsorted(middles, np.abs(scaled), side="left")]
    return np.asarray(nearest * np.sign(scaled) * np.float32(alpha), dtype=np.float32)


def eight_bit(weight: Floats) -> Floats:
    """Weights of the first and last layer beside APoT: 127 steps up to the largest weight."""
    largest = weight.max()
    if largest <= 0:
        return weight
    return np.asarray(np.rint(weight / largest * 127) / 127 * largest, dtype=np.float32)


def _layer_bias(operator: str, bias: Floats | None) -> Floats | None:
    """The bias DeepShift adds: down to a multiple of 2^-16, in convolutions only."""
    if bias is None or operator == "dense":
        return bias
    return np.clip(np.floor(bias * 2.0**16) / 2.0**16, -(2.0**15), 2.0**15 - 1).astype(np.float32)


def _check_powers_of_two(path: str, weight: Floats) -> None:
    mantissa, _ = np.frexp(np.abs(weight))
    wrong = (weight != 0) & (mantissa != 0.5)
    if wrong.any():
        raise ModelError(
            f"Layer '{path}' is a fixed shift, but {int(wrong.sum())} of its {weight.size} weights "
            f"are no powers of two, {weight[wrong][0]:.6g} for one: the checkpoint is from before "
            "they were fixed, or damaged."
        )


def _batch_norm(path: str, leaves: Leaves) -> BatchNorm:
    _only(path, set(leaves), {"running_mean", "running_var", "weight", "bias"})
    mean = leaves["running_mean"]
    make: Callable[[Floats], Floats] = np.ones_like
    gamma = leaves.get("weight", make(mean))
    beta = leaves.get("bias", np.zeros_like(mean))
    variance = leaves.get("running_var")
    parts = (mean, gamma, beta, variance)
    if variance is None or any(p is None or p.shape != mean.shape or p.ndim != 1 for p in parts):
        raise ModelError(
            f"Batch norm '{path}' lacks a statistic, or has some of different sizes: the "
            "checkpoint is damaged."
        )
    if (variance < 0).any():
        raise ModelError(f"Batch norm '{path}' has a negative variance: it is damaged.")
    return BatchNorm(gamma, beta, mean, variance)


def _only(path: str, names: set[str], known: set[str]) -> None:
    unknown = sorted(names - known)
    if unknown:
        raise ModelError(
            f"The checkpoint's key '{path}.{unknown[0]}' is not known beside "
            f"{', '.join(sorted(names & known))}: expected only {', '.join(sorted(known))}."
        )


def _operator(path: str, weight: Floats) -> str:
    if weight.ndim == 2:
        return "dense"
    if weight.ndim == 4:
        return "conv2d"
    raise ModelError(
        f"Layer '{path}' has a weight of shape {list(weight.shape)}: expected [O, I] or "
        "[O, I, kh, kw]."
    )


def _kernel(path: str, weight: Floats) -> Floats:
    if weight.ndim != 4:
        raise ModelError(
            f"Adder layer '{path}' has a weight of shape {list(weight.shape)}: expected "
            "[O, I, kh, kw]."
        )
    return weight


def _bias(path: str, bias: Floats | None, weight: Floats) -> Floats | None:
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ModelError(
            f"Layer '{path}' has {weight.shape[0]} outputs but a bias of shape "
            f"{list(bias.shape)}: the checkpoint is damaged."
        )
    return bias
