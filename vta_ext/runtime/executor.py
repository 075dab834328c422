"""A compiled region on a device: loaded once, then images by as many as the machine takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import DataError
from vta_ext.compiler.compile import Binding
from vta_ext.compiler.layout import gather, pack_map, unpack_map
from vta_ext.program import Program
from vta_ext.runtime.device import Device
from vta_ext.runtime.stored import StoredRegion

Array = NDArray[Any]


class Executable(Protocol):
    """A program and its borders: a compiled region, or one from an artifact."""

    @property
    def program(self) -> Program:
        """What runs."""

    @property
    def inputs(self) -> tuple[Binding, ...]:
        """What the host writes."""

    @property
    def outputs(self) -> tuple[Binding, ...]:
        """What the host reads."""


class RegionExecutor:
    """Runs one region on one device.

    Raises ProgramError where the program is for another configuration than the device's.
    """

    def __init__(self, region: Executable, device: Device) -> None:
        self.region, self._config = region, device.config
        self._loaded = device.load(region.program)
        #: Launches, and sums over them of what the device counts.
        self.counted = {"launches": 0}

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
        batch, total = self._config.batch, count.pop() if count else self._config.batch
        for first in range(0, total, batch):
            for binding in self.region.inputs:
                self._write(binding, given[binding.feed.name][first : first + batch])
            self._loaded.launch()
            self.counted["launches"] += 1
            for name, number in self._loaded.counters().items():
                self.counted[name] = self.counted.get(name, 0) + number
            for binding in self.region.outputs:
                rows[binding.tensor.name].append(self._read(binding)[: total - first])
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

    def _write(self, binding: Binding, images: Array) -> None:
        offset = self.region.program.section(binding.section).offset
        if binding.patches is not None:
            tensor = binding.tensor
            images = gather(images, binding.patches, tensor.height, tensor.width)
        self._loaded.write(offset, pack_map(images, self._config))

    def _read(self, binding: Binding) -> Array:
        section = self.region.program.section(binding.section)
        data = self._loaded.read(section.offset, section.size)
        return unpack_map(data, binding.tensor, self._config)


class RegionFunction:
    """The packed function of a region: takes its arguments, then the tensors of its results."""

    def __init__(self, region: StoredRegion, device: Device) -> None:
        self.region = region
        self._executor = RegionExecutor(region, device)

    @property
    def counted(self) -> Mapping[str, int]:
        """What the device counted in all launches."""
        return self._executor.counted

    def __call__(self, *tensors: Any) -> None:
        """Run; tensors are TVM's, of the network's own shapes with the batch in front."""
        region = self.region
        given = tensors[: len(region.arguments)]
        arrays = {
            value.name: tensor.numpy()
            for value, tensor in zip(region.arguments, given, strict=True)
        }
        feeds = {}
        for feed in (binding.feed for binding in region.inputs):
            array = arrays[feed.name]
            shape = (len(array), feed.height, feed.width, feed.channels)
            feeds[feed.name] = array.reshape(shape)
        results = self._executor.run(feeds)
        for binding, value, tensor in zip(
            region.outputs, region.results, tensors[len(given) :], strict=True
        ):
            array = results[binding.tensor.name]
            tensor.copyfrom(np.ascontiguousarray(array.reshape(len(array), *value.shape)))


def _stacked(rows: list[Array], binding: Binding) -> Array:
    tensor = binding.tensor
    shape = (0, tensor.height, tensor.width, tensor.channels)
    return np.concatenate(rows) if rows else np.zeros(shape, tensor.dtype)
