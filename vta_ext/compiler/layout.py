"""How arrays lie in the accelerator's DRAM: maps by blocks of channels, weights by tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vta_ext.compiler.layers import MatrixTerm, Patches, Tensor
from vta_ext.config import Config
from vta_ext.isa.machine import pack_codes


def map_bytes(tensor: Tensor, config: Config) -> int:
    """Bytes of a map ``[blocks, H, W, block]``; lanes beyond the channels are padding."""
    element = config.acc_bytes if tensor.dtype == "int32" else config.inp_bytes
    return tensor.blocks(config.block) * tensor.height * tensor.width * element


def pack_map(images: NDArray[Any], config: Config) -> bytes:
    """The bytes of a map ``[blocks, H, W, batch, block]`` of up to batch images ``[N, H, W, C]``.

    Missing images and channels are 0.
    """
    count, height, width, channels = images.shape
    blocks = -(-channels // config.block)
    padded = np.zeros((config.batch, height, width, blocks * config.block), images.dtype)
    padded[:count, :, :, :channels] = images
    split = padded.reshape(config.batch, height, width, blocks, config.block)
    return np.ascontiguousarray(split.transpose(3, 1, 2, 0, 4)).tobytes()


def gather(array: NDArray[Any], patches: Patches, height: int, width: int) -> NDArray[Any]:
    """What a window reads at each position of ``[N, H, W, C]``: ``[N, height, width, T * C]``."""
    window, taps = patches.window, patches.window.phases[0].taps
    count, rows, columns, channels = array.shape
    found = np.zeros((count, height, width, len(taps), channels), array.dtype)
    for dy, dx, tap in taps:
        y = np.arange(height) * window.stride[0] + dy
        x = np.arange(width) * window.stride[1] + dx
        down, across = (y >= 0) & (y < rows), (x >= 0) & (x < columns)
        every = range(count)
        part = array[np.ix_(every, y[down], x[across])]
        found[np.ix_(every, down, across, [tap])] = part[:, :, :, None]
    return found.reshape(count, height, width, -1)


def unpack_map(data: bytes, tensor: Tensor, config: Config) -> NDArray[Any]:
    """The images ``[batch, H, W, C]`` of the map in ``data``."""
    array = np.frombuffer(data, np.dtype(tensor.dtype).newbyteorder("<"))
    split = array.reshape(-1, tensor.height, tensor.width, config.batch, config.block)
    joined = split.transpose(3, 1, 2, 0, 4).reshape(config.batch, tensor.height, tensor.width, -1)
    return np.ascontiguousarray(joined[..., : tensor.channels]).astype(tensor.dtype)


def weight_tiles(term: MatrixTerm, block: int) -> NDArray[Any]:
    """Weights as tiles ``[T, K, I blocks, O blocks, block (output), block (input)]``.

    Channels are padded with 0.
    """
    taps, terms, inputs, outputs = term.weights.shape
    padded = np.zeros(
        (taps, terms, -(-inputs // block) * block, -(-outputs // block) * block), term.weights.dtype
    )
    padded[:, :, :inputs, :outputs] = term.weights
    split = padded.reshape(taps, terms, -1, block, padded.shape[3] // block, block)
    return np.ascontiguousarray(split.transpose(0, 1, 2, 4, 5, 3))


def tile_bytes(tiles: NDArray[Any], mode: str) -> bytes:
    """Elements of the weight buffer, as they lie in DRAM, of tiles ``[n, block, block]``."""
    return pack_codes(tiles).tobytes() if mode == "shift" else tiles.astype(np.int8).tobytes()


def vectors(rows: NDArray[np.int64], config: Config) -> NDArray[np.int32]:
    """Constants ``[n, C]`` as int32 ``[blocks, n, batch, block]``, the low 32 bits of each."""
    count, channels = rows.shape
    blocks = -(-channels // config.block)
    padded = np.zeros((count, blocks * config.block), np.int64)
    padded[:, :channels] = rows
    split = padded.astype(np.int32).reshape(count, blocks, config.block).transpose(1, 0, 2)
    full = np.broadcast_to(split[:, :, None, :], (blocks, count, config.batch, config.block))
    return np.ascontiguousarray(full)
