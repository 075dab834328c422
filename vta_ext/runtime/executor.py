"""A compiled region on a device: loaded once, then images one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import DataError
from vta_ext.compiler.compile import Binding, CompiledRegion
from vta_ext.compiler.layout import gather, pack_map, unpack_map
from vta_ext.runtime.device import Device

Array = NDArray[Any]


class RegionExecutor:
    """Runs one region on one device.

    Raises ProgramError where the program is for another configuration than the device's.
    """

    def __init__(self, region: CompiledRegion, device: Device) -> None:
        self.region, self._config = region, device.config
        self._loaded = device.load(region.program)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Results of a batch by name: ``[N, H, W, C]`` of int8, uint8 or int32.

        ``inputs``: ``[N, H, W, C]`` of each input, by name. Raises DataError for a missing input
        or one of another type or shape.
        """
        given = {binding.feed.name: self._input(binding, inputs) for binding in self.region.inputs}
        count = {len(array) for array in given.values()}
        if len(count) > 1:
            raise DataError(f"inputs have different batches: {sorted(count)}")
        rows: dict[str, list[Array]] = {b.tensor.name: [] for b in self.region.outputs}
        for image in range(count.pop() if count else 1):
            for binding in self.region.inputs:
                self._write(binding, given[binding.feed.name][image])
            self._loaded.launch()
            for binding in self.region.outputs:
                rows[binding.tensor.name].append(self._read(binding))
        return {
            binding.tensor.name: _stacked(rows[binding.tensor.name], binding)
            for binding in self.region.outputs
        }

    def _input(self, binding: Binding, inputs: Mapping[str, Array]) -> Array:
        tensor = binding.feed
        shape = (tensor.height, tensor.width, tensor.channels)
        array = inputs.get(tensor.name)
        if array is None or array.dtype != tensor.dtype or array.shape[1:] != shape:
            came = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise DataError(
                f"expected input {tensor.name} of {tensor.dtype}[N, {', '.join(map(str, shape))}], "
                f"got {came}"
            )
        return array

    def _write(self, binding: Binding, image: Array) -> None:
        offset = self.region.program.section(binding.section).offset
        if binding.patches is not None:
            tensor = binding.tensor
            image = gather(image, binding.patches, tensor.height, tensor.width)
        self._loaded.write(offset, pack_map(image, self._config))

    def _read(self, binding: Binding) -> Array:
        section = self.region.program.section(binding.section)
        data = self._loaded.read(section.offset, section.size)
        return unpack_map(data, binding.tensor, self._config)


def _stacked(rows: list[Array], binding: Binding) -> Array:
    tensor = binding.tensor
    shape = (0, tensor.height, tensor.width, tensor.channels)
    return np.stack(rows) if rows else np.zeros(shape, tensor.dtype)
