"""Modules of a few layers with random weights, compiled and compared with the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.formats import codes, packing
from tvm_shiftadd.target import cpu, parse, runtime
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Choices


@pytest.fixture(scope="session")
def network() -> type[Network]:
    """The class of modules under construction: ``network(seed)`` begins one."""
    return Network


class Network:
    """A module under construction: data inputs first, then parameters with their values."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.batch: Any = tvm.tirx.Var("n", "int64")
        self.data: dict[str, np.ndarray] = {}
        self.parameters: dict[str, np.ndarray] = {}
        self.variables: list[Any] = []

    def input(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A data input of any batch with random values over the whole range of the type."""
        name = f"x{len(self.data)}"
        if dtype == "float32":
            values = self.rng.normal(size=shape).astype(np.float32)
        else:
            low, high = (-2000, 2000) if dtype == "int32" else _range(dtype)
            values = self.rng.integers(low, high + 1, shape).astype(dtype)
        self.data[name] = values
        var = relax.Var(name, relax.TensorType((self.batch, *shape[1:]), dtype))
        self.variables.insert(len(self.data) - 1, var)
        return var

    def parameter(self, values: np.ndarray) -> Any:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = values
        var = relax.Var(name, relax.TensorType(values.shape, str(values.dtype)))
        self.variables.append(var)
        return var

    def weights(self, reduction: int, outputs: int, terms: int) -> tuple[Any, Any]:
        """Packed codes and bias."""
        values = self.rng.choice(codes.representable(terms), (reduction, outputs))
        bias = self.rng.integers(-5000, 5000, outputs).astype(np.int32)
        packed = packing.pack(codes.encode(values, terms))
        return self.parameter(packed), self.parameter(bias)

    def shift(self, low: int, high: int, channels: int) -> Any:
        values = self.rng.integers(low, high + 1, channels).astype(np.int32)
        return self.parameter(values)

    def check(
        self,
        make: Callable[[Callable[[Any], Any]], Any],
        target: Any = "cpu",
        choices: Choices | None = None,
    ) -> Any:
        """Build what ``make(emit)`` returns, run it, and compare with the reference."""
        builder = relax.BlockBuilder()
        with builder.function("main", self.variables):
            with builder.dataflow():
                output = builder.emit_output(make(builder.emit))
            builder.emit_func_output(output)
        module = builder.get()
        executable = cpu.build(module, parse(target), data_inputs=len(self.data), choices=choices)
        machine = relax.VirtualMachine(executable, tvm.cpu())
        tensors = [tvm.runtime.tensor(values) for values in self.parameters.values()]
        prepared = runtime.prepare_parameters(machine, tensors)
        data = [tvm.runtime.tensor(values) for values in self.data.values()]
        got = machine["main"](*data, *prepared).numpy()
        (expected,) = run_reference(module, {**self.data, **self.parameters}).values()
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
        return executable


def _range(dtype: str) -> tuple[int, int]:
    return np.iinfo(dtype).min, np.iinfo(dtype).max
