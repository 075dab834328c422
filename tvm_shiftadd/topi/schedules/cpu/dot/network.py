"""Which variables of a network are stored maps, which kernels make them, and how they lie there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect.attrs import MaxPool2DAttrs
from tvm_shiftadd.topi.schedules.fusion.chains import (
    Chain,
    Readers,
    bindings,
    is_map,
    map_sizes,
    name_of,
    parts_of,
    reach,
)
from tvm_shiftadd.topi.schedules.fusion.epilogue import CHANNELS
from tvm_shiftadd.topi.schedules.fusion.layers import MAP_LAYERS, is_layer

from . import transposed
from .layers import is_depthwise
from .pool import has_taps
from .stored import Flat, Lattice, Stored, View, pitch_of

#: The axes of a map whose channels are moved last, and of one whose channels are moved first.
_LAST, _FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_POOLS = ("shiftadd.max_pool2d", "shiftadd.avg_pool2d")
_MOVES = ("shiftadd.concat", "shiftadd.upsample2d", "shiftadd.pad")
AVERAGE, TRANSPOSED = "shiftadd.avg_pool2d", "shiftadd.conv2d_transpose"
_MAP_LAYERS = (*MAP_LAYERS, TRANSPOSED)
#: What has a kernel of its own where it follows no layer.
ALONE = ("shiftadd.add", "shiftadd.requantize", "shiftadd.clip")


class Network:
    """What is known of a function before it is rewritten.

    ``chains`` are by the variable that their kernel computes; ``inner`` variables are nowhere in
    memory any more; ``moved`` are those that pools and moves make, between stored maps.
    """

    def __init__(self, function: Any) -> None:
        self.readers = Readers(function, whole=CHANNELS)
        self.chains: dict[Any, Chain] = {}
        self.inner: set[Any] = set()
        self.moved: set[Any] = set()
        #: Variables that are in memory what another one is, and that one.
        self._same: dict[Any, Any] = {}
        self._layouts: dict[Any, Stored] = {}
        #: Maps that only layers and what is made between stored maps read, by their variables.
        self._entries: set[Any] = set()
        for binding in bindings(function):
            self._look(binding.var, binding)
        for chain in self.chains.values():
            self._drop_views(chain)
            self._drop_flat(chain)

    def _look(self, var: Any, binding: Any) -> None:
        value, name = binding.value, name_of(binding.value)
        if self._is_layer(value):
            self._add_chain(binding)
        elif var in self.inner or var in self.chains:
            return
        elif self._is_moved(var, value):
            self.moved.add(var)
        elif (chain := self.readers.alone(binding)) and self.is_stored(chain.source):
            self._take(chain, var)
        elif self._is_entry(var, value):
            self._entries.add(var)
        elif name == "relax.reshape" and self._is_same(var, value.args[0]):
            self._same[var] = self.root(value.args[0])

    def _is_layer(self, value: Any) -> bool:
        name = name_of(value)
        average = name == AVERAGE and self.is_stored(value.args[0])
        return average or name == TRANSPOSED or is_layer(value)

    def _is_moved(self, var: Any, value: Any) -> bool:
        """Whether a maximum or a move is computed from stored maps."""
        name = name_of(value)
        if name == "shiftadd.max_pool2d":
            attrs, sizes = MaxPool2DAttrs.of(value), (map_sizes(value.args[0]), map_sizes(var))
            return self.is_stored(value.args[0]) and has_taps(attrs, *sizes)
        if name not in _MOVES or len(var.ty.shape) != 4:
            return False
        if name == "shiftadd.concat":
            parts = parts_of(value)
            return int(value.attrs["axis"]) > 0 and any(map(self.is_stored, parts))
        if name == "shiftadd.pad" and any(list(value.attrs["pad_width"])[:2]):
            return False
        return self.is_stored(value.args[0])

    def _is_entry(self, var: Any, value: Any) -> bool:
        """Whether a map of quantised floats is read by kernels on stored maps."""
        name = name_of(value)
        moved = name == "relax.permute_dims" and [int(a) for a in value.attrs["axes"] or ()]
        source = self.readers.definitions.get(value.args[0]) if moved == _LAST else value
        if name_of(source) != "shiftadd.quantize" or len(var.ty.shape) != 4:
            return False
        return self._feeds_layer(var)

    def _feeds_layer(self, var: Any) -> bool:
        for binding in self.readers.of[var]:
            name = name_of(binding.value)
            if name in _MAP_LAYERS:
                return True
            if name in (*_POOLS, *_MOVES, *ALONE) and self._feeds_layer(binding.var):
                return True
        return False

    def _is_same(self, var: Any, source: Any) -> bool:
        """Whether a reshaped tensor lies in memory as a stored map does."""
        return self.is_stored(source) and _is_pixel(source) and _is_pixel(var)

    def root(self, var: Any) -> Any:
        """The variable that another one is in memory, mostly itself."""
        return self._same.get(var, var)

    def is_stored(self, var: Any) -> bool:
        """Whether a variable is a stored map when it is made."""
        if not isinstance(var, relax.Var):
            return False
        var = self.root(var)
        chain = self.chains.get(var)
        made = var in self.moved or var in self._entries
        return made or (chain is not None and chain.requantize is not None)

    def _add_chain(self, binding: Any) -> None:
        self._take(self.readers.chain(binding, self.chains), binding.var)

    def _take(self, chain: Chain, var: Any) -> None:
        """Have a kernel compute a chain that begins with a variable."""
        self.chains[chain.result] = chain
        while not var.same_as(chain.result):
            self.inner.add(var)
            var = self.readers.only(var).var

    def view(self, chain: Chain) -> tuple[Any, View] | None:
        """The stored map that a chain adds a view of, if it adds one."""
        found = self.readers.strided(chain.other) if chain.other is not None else None
        if found is None or found[0] not in self.chains:
            return None
        source, strides, before = found
        layout = self.layout(source)
        if layout.origin < before or self.chains[source].requantize is None:
            return None
        seen = {**vars(layout), "lattice": Lattice(strides)}
        return source, View(**seen, before=before)

    def _drop_views(self, chain: Chain) -> None:
        """What lies between a stored map and its view need not be computed."""
        var, view = chain.other, self.view(chain)
        while view is not None and not var.same_as(view[0]) and self.readers.only(var):
            self.inner.add(var)
            self.moved.discard(var)
            var = self.readers.definitions[var].args[0]

    def flat(self, layer: Any) -> tuple[Any, Flat] | None:
        """The stored map whose flattened pixels a dense layer reads, if it reads one."""
        found = self._flattened(layer)
        if found is None:
            return None
        source, channels_first = found
        layout = self.layout(source)
        return None if any(layout.border) else (source, Flat(layout, channels_first))

    def _flattened(self, layer: Any) -> tuple[Any, bool] | None:
        """The stored map that is flattened, and whether its channels are moved first."""
        read: Any = self.readers.definitions.get(layer.args[0])
        if name_of(layer) != "shiftadd.dense" or name_of(read) != "relax.reshape":
            return None
        source = read.args[0]
        moved: Any = self.readers.definitions.get(source)
        first = name_of(moved) == "relax.permute_dims"
        if first:
            if [int(axis) for axis in moved.attrs["axes"] or ()] != _FIRST:
                return None
            source = moved.args[0]
        if not self.is_stored(source) or len(source.ty.shape) != 4:
            return None
        # Images stay rows.
        whole = math.prod(map_sizes(source)) == map_sizes(layer.args[0])[2]
        return (source, first) if whole else None

    def _drop_flat(self, chain: Chain) -> None:
        """What lies between a stored map and a layer that reads it flattened is not computed."""
        found, var = self.flat(chain.layer), chain.layer.args[0]
        while found is not None and not var.same_as(found[0]) and self.readers.only(var):
            self.inner.add(var)
            var = self.readers.definitions[var].args[0]

    def layout(self, var: Any) -> Stored:
        """How a map is stored: with a border as wide as any of its readers reaches."""
        root = self.root(var)
        if root not in self._layouts:
            self._layouts[root] = self._layout(root)
        return self._layouts[root]

    def _layout(self, root: Any) -> Stored:
        height, width, channels = map_sizes(root)
        readers = [binding for name in self._names(root) for binding in self.readers.of[name]]
        sides = [(0, 0, 0, 0), *(_reach(binding) for binding in readers)]
        top, left, bottom, right = (max(side) for side in zip(*sides, strict=True))
        chains = [c for c in self.chains.values() if self.root(c.source).same_as(root)]
        others = [c.other for c in self.chains.values() if c.other is not None]
        vectors = (
            root in self.chains
            or root in self.moved
            or any(root.same_as(self.root(other)) for other in others)
            or any(name_of(binding.value) in (*_POOLS, *_MOVES, *ALONE) for binding in readers)
            or any(map(is_depthwise, chains))
        )
        pitch = pitch_of(channels, not vectors)
        zero = 0 if self.readers.never_negative(root) else 128
        return Stored(height, width, channels, pitch, (top, left, bottom, right), zero)

    def _names(self, root: Any) -> Iterator[Any]:
        yield root
        yield from (name for name, other in self._same.items() if other.same_as(root))


def _is_pixel(var: Any) -> bool:
    """Whether a tensor of bytes is a matrix, or a map of one pixel."""
    return is_map(var) and map_sizes(var)[:2] == (1, 1)


def _reach(binding: Any) -> tuple[int, int, int, int]:
    """How far a reader reaches beyond its input: top, left, bottom, right."""
    name = name_of(binding.value)
    if name == TRANSPOSED:
        return transposed.reach(binding.value)
    if name in (*_MAP_LAYERS, *_POOLS):
        return reach(binding.value, binding.var.ty)
    return (0, 0, 0, 0)
