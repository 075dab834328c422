"""What a conversion did to one layer, and which of its steps did most of the harm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.bias import float_bias
from tvm_shiftadd.convert.exact import KeptWeight
from tvm_shiftadd.convert.execute import QTensor, clip, store, to_float
from tvm_shiftadd.convert.graph import Node
from tvm_shiftadd.convert.operators import run_adder, run_linear
from tvm_shiftadd.convert.plan import AdderPlan, LayerPlan, Plan
from tvm_shiftadd.convert.report import LayerReport, snr_db
from tvm_shiftadd.formats import codes
from tvm_shiftadd.formats.ranges import activation_range

#: Images on which a layer's error is taken apart.
IMAGES = 64

Float32 = NDArray[np.float32]


class Diagnosis:
    """Makes the report of each layer of one network; ``consumers`` as ``Graph.consumers`` has."""

    def __init__(self, plan: Plan, consumers: Mapping[str, Sequence[Node]]) -> None:
        self._plan = plan
        self._consumers = consumers

    def weight_layer(
        self,
        node: Node,
        layer: LayerPlan,
        kept: KeptWeight,
        weight: NDArray[np.float64],
        gain: Float32,
        x: QTensor,
        wanted: Float32,
        result: QTensor,
    ) -> LayerReport:
        """The report of a layer with term codes.

        weight: what was rounded, float64 ``[R, O]``; gain: of the channels of its output over the
        float layer's, ``[O]`` or one, which ``weight`` and ``wanted`` have; x: its integer input;
        wanted: its float output; result: its accumulators.
        """
        assert node.weight is not None
        rounded = np.ldexp(kept.values.astype(np.float64), -layer.weight_exponent)
        rounded *= kept.multiplier
        shaped = weight.astype(np.float32).reshape(node.weight.shape)
        bias = (float_bias(node) * gain).astype(np.float32)

        def run(own: Float32) -> Float32:
            return run_linear(node, own, shaped, bias)

        return LayerReport(
            name=node.name,
            op=node.op,
            terms=layer.terms,
            weights=weight.size,
            terms_per_weight=codes.count_terms(layer.codes) / weight.size,
            weight_snr_db=snr_db(weight, rounded - weight),
            exact=kept.exact,
            copies=0 if kept.factor is None else kept.factor.copies,
            **self._errors(node, run, x, wanted, result),
        )

    def adder_layer(
        self, node: Node, layer: AdderPlan, x: QTensor, wanted: Float32, result: QTensor
    ) -> LayerReport:
        """The report of an adder layer; arguments as for :meth:`weight_layer`."""
        assert node.weight is not None
        weight = node.weight.astype(np.float64)
        kept = np.ldexp(np.rint(np.ldexp(weight, x.exponent[0])), -x.exponent[0])
        return LayerReport(
            name=node.name,
            op=node.op,
            terms=0,
            weights=weight.size,
            terms_per_weight=0.0,
            weight_snr_db=snr_db(weight, kept - weight),
            copies=0 if layer.factor is None else layer.factor.copies,
            **self._errors(node, lambda own: run_adder(node, own), x, wanted, result),
        )

    def end_of(self, node: Node) -> str | None:
        """The stored tensor at the end of the layer's wide chain, None where there is none."""
        name = node.output
        while name not in self._plan.exponents:
            readers = [reader for reader in self._consumers[name] if not reader.on_host]
            if not readers:
                return None
            name = readers[0].output
        return name

    def _errors(
        self,
        node: Node,
        run: Callable[[Float32], Float32],
        x: QTensor,
        wanted: Float32,
        result: QTensor,
    ) -> dict[str, Any]:
        """Exponents, signal-to-noise ratios and saturation; ``run`` is the layer in float."""
        end = self.end_of(node)
        some = _some(wanted)
        own = run(to_float(QTensor(x.values[some], x.exponent)))
        have = to_float(QTensor(result.values[some], result.exponent))
        part = wanted[some]
        return {
            "input_exponent": int(x.exponent[0]),
            "output_exponent": None if end is None else self._plan.exponents[end],
            "output_snr_db": snr_db(wanted, to_float(result) - wanted),
            "input_snr_db": snr_db(part, own - part),
            "rounding_snr_db": snr_db(part, have - own),
            **self._storage(node, result),
        }

    def _storage(self, node: Node, result: QTensor) -> dict[str, Any]:
        """What storing costs, where the result is requantised without an addition before.

        Values of uint8 are saturated at the top only.
        """
        name = node.output
        while name not in self._plan.exponents:
            readers = self._consumers[name]
            if not readers or readers[0].op != "clip":
                return {"storage_snr_db": None, "saturation": 0.0}
            result = clip(readers[0], result)
            name = readers[0].output
        kept = store(result, name, self._plan)
        least, most = activation_range(kept.values.dtype)
        full = (kept.values == most) | ((kept.values == least) & (least < 0))
        some = _some(full)
        real = np.clip(to_float(QTensor(result.values[some], result.exponent)), *result.bounds)
        stored = to_float(QTensor(kept.values[some], kept.exponent))
        return {
            "storage_snr_db": snr_db(real, stored - real),
            "saturation": float(np.mean(full)),
        }


def _some(images: NDArray[Any]) -> slice:
    return slice(None, None, max(1, len(images) // IMAGES))
