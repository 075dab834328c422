"""What rows are fed with: weights that stay for some cycles, activations as after a ReLU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats import codes, packing
from vta_ext.rtl.elements import INPUT_BITS

Ints = NDArray[np.int64]
#: Standard deviations: of activations before the ReLU, and of weights where none are given.
_ACTIVATIONS: Final = 64
_WEIGHTS: Final = 24


@dataclass(frozen=True)
class Operands:
    """inputs, weights: integers ``[lanes, cycles, block]``; weights of at most 112."""

    inputs: Ints
    weights: Ints


def draw(
    lanes: int, cycles: int, block: int, reuse: int, blocks: Ints | None = None, seed: int = 0
) -> Operands:
    """Operands of so many lanes: each set of weights stays for ``reuse`` cycles.

    ``blocks``: sets of weights ``[count, block]`` to choose from; normal ones by default.
    """
    rng = np.random.default_rng(seed)
    shape = (lanes, -(-cycles // reuse))
    if blocks is None:
        chosen = np.rint(rng.normal(0, _WEIGHTS, (*shape, block))).clip(-96, 96).astype(np.int64)
    else:
        chosen = blocks[rng.integers(0, len(blocks), shape)]
    normal = rng.normal(0, _ACTIVATIONS, (lanes, cycles, block))
    return Operands(
        np.rint(normal).clip(0, 255).astype(np.int64),
        np.repeat(chosen, reuse, axis=1)[:, :cycles],
    )


def weights_of(path: Path, block: int) -> Ints:
    """Weights of the layers of an artifact for the CPU, its ``weights.safetensors``.

    Sets ``[count, block]`` of one output each. Raises InputError where it cannot be read or has
    no codes.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"cannot read the weights {path}: {error}") from error
    found = []
    for name, packed in sorted(tensors.items()):
        if name.endswith(".codes") and packed.ndim == 3:
            decoded = codes.decode(packing.unpack(packed, 2 * packed.shape[1]))
            whole = decoded.T[:, : len(decoded) // block * block]
            found.append(whole.reshape(-1, block))
    if not found or not sum(map(len, found)):
        raise InputError(
            f"{path} has no codes of layers with {block} weights or more an output: expected "
            "weights.safetensors of an artifact for the CPU"
        )
    return np.concatenate(found).astype(np.int64)


def as_mode(weights: Ints, mode: str) -> tuple[Ints, Ints]:
    """What a mode makes of weights: their bits, 4 or 8 each, and the values they stand for."""
    if mode != "shift":
        return weights & 0xFF, weights
    known = codes.representable(1).astype(np.int64)
    near = np.abs(weights[..., None] - known).argmin(-1)
    return codes.encode(known, 1)[0].astype(np.int64)[near], known[near]


def expected(inputs: Ints, values: Ints, mode: str) -> Ints:
    """The sum that a row makes, ``[lanes, cycles]``."""
    terms = -np.abs(inputs - values) if mode == "adder" else inputs * values
    return np.asarray(terms.sum(-1), np.int64)


def port(values: Ints, bits: int) -> list[int]:
    """Values ``[lanes, block]`` as the bits of a port, each an integer with a bit for each lane."""
    places = (values[..., None] >> np.arange(bits)) & 1
    rows = np.packbits(places.reshape(len(values), -1).T.astype(np.uint8), 1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


def stimulus(inputs: Ints, bits: Ints, width: int, select: int, mask: int) -> dict[str, list[int]]:
    """The ports of a row in one cycle; weights of ``width`` bits."""
    return {
        "inputs": port(inputs, INPUT_BITS),
        "weights": port(bits, width),
        "select": [mask * select],
    }


def number(bits: list[int], lanes: int) -> Ints:
    """The signed numbers ``[lanes]`` that bits of a port stand for."""
    found = np.zeros(lanes, np.int64)
    for place, bit in enumerate(bits):
        raw = np.frombuffer(bit.to_bytes(-(-lanes // 8), "little"), np.uint8)
        weight = -(1 << place) if place == len(bits) - 1 else 1 << place
        found += weight * np.unpackbits(raw, count=lanes, bitorder="little").astype(np.int64)
    return found
