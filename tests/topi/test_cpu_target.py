"""Target descriptions, and compiling whole modules for them."""

from __future__ import annotations

import json
import platform
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_shiftadd import _processor, _runtime
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.errors import CompileError, InputError, VerificationError
from tvm_shiftadd.formats import codes, packing, reference
from tvm_shiftadd.manifest import TargetInfo
from tvm_shiftadd.target import CPUTarget, cpu, parse, runtime
from tvm_shiftadd.topi.schedules.cpu.dot.x86 import AVX2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", CPUTarget()),
        ("cpu:generic", CPUTarget(mcpu="generic")),
        ({"kind": "llvm", "mcpu": "znver4"}, CPUTarget(mcpu="znver4")),
        ('{"kind": "llvm", "num_threads": 3}', CPUTarget(num_threads=3)),
        (CPUTarget(mattr=("+avx2",)), CPUTarget(mattr=("+avx2",))),
    ],
)
def test_parse(text, expected):
    target = parse(text)
    assert target == expected
    assert parse(target.as_dict()) == expected


def test_parse_file(tmp_path):
    file = tmp_path / "target.json"
    file.write_text(json.dumps({"kind": "llvm", "mcpu": "x86-64-v3", "mattr": ["+avx2"]}))
    assert parse(str(file)) == parse(file) == CPUTarget("llvm", "x86-64-v3", ("+avx2",))


@pytest.mark.parametrize(
    "text",
    [
        "gpu",
        "",
        "missing.json",
        "{",
        "[1]",
        {},
        {"kind": "rocm"},
        {"kind": "llvm", "cpu": "znver4"},
        *({"kind": kind, "cpu": "znver4", 1: 2} for kind in ("llvm", "cuda", "vta")),
        '{"mcpu": ' + "[" * 100_000,
        {"kind": "llvm", "mcpu": 3},
        {"kind": "llvm", "mattr": "+avx2"},
        {"kind": "llvm", "num_threads": 0},
        {"kind": "llvm", "num_threads": True},
    ],
)
def test_parse_refuses(text):
    with pytest.raises(InputError):
        parse(text)


def test_unknown_target_lists_the_known_ones():
    with pytest.raises(InputError) as error:
        parse("tpu")
    assert all(repr(name) in str(error.value) for name in ("cpu", "cpu:generic"))


def test_unknown_processor():
    with pytest.raises(CompileError, match="nonesuch"):
        cpu.tvm_target(CPUTarget(mcpu="nonesuch"))


def test_vector_lanes_follow_the_processor():
    lanes = {
        mcpu: cpu.vector_lanes(cpu.tvm_target(CPUTarget(mcpu=mcpu)))
        for mcpu in ("x86-64-v3", "znver4")
    }
    assert lanes == {"x86-64-v3": 16, "znver4": 32}


def small_network(rng):
    """A residual network of two layers; the module, its weights, and a NumPy function."""
    batch = tvm.tirx.Var("n", "int64")
    values = [rng.choice(codes.representable(2), size) for size in ((27, 16), (144, 16))]
    packed = [packing.pack(codes.encode(value, 2)) for value in values]
    biases = [rng.integers(-999, 999, 16).astype(np.int32) for _ in values]
    shift, zero, six = (np.full(1, v, np.int32) for v in (8, 0, 6))
    arrays = [packed[0], biases[0], packed[1], biases[1]]
    x = relax.Var("x", relax.TensorType((batch, 8, 8, 3), "float32"))
    weights = [
        relax.Var(f"w{i}", relax.TensorType(a.shape, str(a.dtype))) for i, a in enumerate(arrays)
    ]
    window = {"kernel_size": (3, 3), "padding": (1, 1, 1, 1)}
    builder = relax.BlockBuilder()
    with builder.function("main", [x, *weights]):
        with builder.dataflow():
            q = builder.emit(ops.quantize(x, 5))
            y = builder.emit(ops.conv2d(q, *weights[:2], **window))
            y = builder.emit(ops.requantize(y, relax.const(shift), lo=0, hi=127))
            z = builder.emit(ops.conv2d(y, *weights[2:], **window))
            z = builder.emit(ops.add(z, y, relax.const(zero), relax.const(six)))
            z = builder.emit(ops.requantize(z, relax.const(shift), lo=-128, hi=127))
            z = builder.emit(relax.op.permute_dims(z, (0, 3, 1, 2)))
            result = builder.emit_output(builder.emit(ops.dequantize(z, relax.const(six))))
        builder.emit_func_output(result)

    def expected(x):
        q = reference.quantize(x, 5)
        w = [value.reshape(3, 3, -1, 16).astype(np.int32) for value in values]
        y = reference.conv2d(q, w[0], biases[0], padding=window["padding"])
        y = reference.requantize(y, shift, 0, 127)
        z = reference.conv2d(y, w[1], biases[1], padding=window["padding"])
        z = reference.requantize(reference.add(z, y, zero, six), shift)
        return reference.dequantize(z.transpose(0, 3, 1, 2), six)

    return builder.get(), arrays, expected


@pytest.mark.parametrize("data_inputs", [None, 1])
def test_network_with_any_batch(data_inputs):
    rng = np.random.default_rng(3)
    module, arrays, expected = small_network(rng)
    executable = cpu.build(module, parse("cpu"), data_inputs=data_inputs)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    weights = runtime.prepare_parameters(machine, [tvm.runtime.tensor(a) for a in arrays])
    for batch in (1, 3, 8):
        x = rng.normal(size=(batch, 8, 8, 3)).astype(np.float32)
        got = machine["main"](tvm.runtime.tensor(x), *weights).numpy()
        np.testing.assert_array_equal(got, expected(x))


def test_codes_are_sorted_ahead_of_the_runs_only_on_request():
    module, arrays, _ = small_network(np.random.default_rng(3))
    before = cpu.build(module, parse("cpu"))
    machine = relax.VirtualMachine(before, tvm.cpu())
    tensors = [tvm.runtime.tensor(a) for a in arrays]
    assert all(
        ours is theirs
        for ours, theirs in zip(runtime.prepare_parameters(machine, tensors), tensors, strict=True)
    )
    assert "num_input" not in module["main"].attrs


def test_exported_library_runs(tmp_path):
    rng = np.random.default_rng(5)
    module, arrays, expected = small_network(rng)
    path = tmp_path / "library.so"
    cpu.build(module, parse("cpu:generic"), data_inputs=1).export_library(str(path))
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    weights = runtime.prepare_parameters(machine, [tvm.runtime.tensor(a) for a in arrays])
    x = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        machine["main"](tvm.runtime.tensor(x), *weights).numpy(), expected(x)
    )


def test_threads_can_be_set():
    # The pool belongs to a Python thread, so a fresh one does not disturb the other tests.
    def use(count):
        runtime.set_num_threads(count)
        return runtime.num_threads()

    for count in range(1, len(runtime._processors()) + 1):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(use, count).result() == count
            assert pool.submit(use, 1).result() == 1
    with pytest.raises(InputError, match="threads"):
        runtime.set_num_threads(0)


def test_threads_follow_the_environment(monkeypatch):
    def use():
        runtime.set_num_threads()
        return runtime.num_threads()

    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(use).result() == 1
    monkeypatch.delenv("TVM_NUM_THREADS")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(use).result() == runtime.available_cores()


@pytest.mark.parametrize(
    "target", [{"mcpu": "x86-64"}, {"mcpu": "x86-64-v2"}, {"mcpu": "x86-64-v3", "mattr": ["-avx2"]}]
)
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="is about x86-64")
def test_x86_without_avx2_is_refused(target):
    with pytest.raises(CompileError, match="AVX2"):
        cpu.tvm_target(parse({"kind": "llvm", **target}))


@pytest.fixture
def only_avx2(tmp_path, monkeypatch):
    """A system that shows AVX2 and nothing better, whatever its processor is called."""
    shown = tmp_path / "cpuinfo"
    shown.write_text("flags\t\t: fpu sse4_1 sse4_2 avx avx2 f16c fma bmi2\n")
    monkeypatch.setattr(_processor, "_CPUINFO", shown)
    _processor.vector_features.cache_clear()
    yield
    _processor.vector_features.cache_clear()


@pytest.mark.usefixtures("only_avx2")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="is about x86-64")
def test_code_choice_and_manifest_agree_where_features_are_masked():
    assert cpu.instruction_set(CPUTarget()) is AVX2
    module, _, _ = small_network(np.random.default_rng(3))
    text = cpu.assembly(cpu.build(module, CPUTarget(), data_inputs=1))
    assert re.search(r"%ymm\d", text)
    assert not re.search(r"%zmm|%k[1-7]|%[xy]mm(1[6-9]|[23]\d)|vpdpbusd", text)
    described = _runtime.pinned(TargetInfo("cpu", CPUTarget().as_dict())).attributes["features"]
    assert {"avx2"} <= set(described) <= {"sse41", "sse42", "avx", "avx2", "f16c", "fma"}
    # Who asks for more gets it, and the artifact says so.
    more = CPUTarget(mattr=("+avx512bw",))
    assert "avx512bw" in _runtime.pinned(TargetInfo("cpu", more.as_dict())).attributes["features"]


@pytest.mark.parametrize("feature", ["+nonesuch", "avx2", ""])
def test_unknown_feature(feature):
    with pytest.raises(CompileError, match="mattr"):
        cpu.tvm_target(CPUTarget(mattr=(feature,)))


def test_kernels_that_multiply_are_refused(monkeypatch):
    def multiplying():
        shape = (tvm.tirx.IntImm("int64", 4),)
        x, bias = (tvm.te.placeholder(shape, "int32", name) for name in ("x", "bias"))
        product = tvm.te.compute(shape, lambda i: x[i] * bias[i], name="product")
        return tvm.te.create_prim_func([x, bias, product])

    def dense(builder, call):
        kernel = builder.add_func(multiplying(), "shiftadd_dense")
        x, _, bias = call.args
        wide = builder.emit(relax.op.astype(relax.op.reshape(x, (4,)), "int32"))
        y = builder.emit(relax.call_tir(kernel, [wide, bias], relax.TensorType((4,), "int32")))
        return relax.op.reshape(y, (1, 4))

    monkeypatch.setattr(cpu, "legalize_map", lambda _lanes: {"shiftadd.dense": dense})
    x = relax.Var("x", relax.TensorType((1, 4), "int8"))
    packed = relax.const(np.zeros((1, 2, 4), np.uint8))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(ops.dense(x, packed, relax.const(np.ones(4, np.int32))))
            y = builder.emit_output(y)
        builder.emit_func_output(y)
    with pytest.raises(VerificationError, match="product"):
        cpu.build(builder.get(), parse({"kind": "llvm", "kernels": "shift"}))


def test_integer_products_of_the_host_are_kept_apart():
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((n, 4), "int8"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(ops.dequantize(x, relax.const(np.zeros(1, np.int32))))
            y = builder.emit(relax.op.astype(y, "int64"))
            y = builder.emit_output(builder.emit(relax.op.multiply(y, y)))
        builder.emit_func_output(y)
    machine = relax.VirtualMachine(cpu.build(builder.get(), parse("cpu")), tvm.cpu())
    values = np.array([[1, -2, 3, 100]], np.int8)
    got = machine["main"](tvm.runtime.tensor(values)).numpy()
    np.testing.assert_array_equal(got, [[1, 4, 9, 10000]])
