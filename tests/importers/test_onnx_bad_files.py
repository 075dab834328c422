"""Files and models that cannot be imported: one sentence, before anything is allocated."""

from __future__ import annotations

import itertools
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.importers.onnx_models import build, random
from tvm_shiftadd.errors import ModelError, UnsupportedOperatorError
from tvm_shiftadd.importers import _onnx_prepare, load
from tvm_shiftadd.importers.onnx import load_onnx

CONV = [helper.make_node("Conv", ["x", "w"], ["y"], name="c")]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def conv_model() -> onnx.ModelProto:
    return build(CONV, {"w": random(4, 3, 3, 3)})


FLIPPED = build(
    [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c", "lo", "hi"], ["r"], name="clip"),
        helper.make_node("Flatten", ["r"], ["y"]),
    ],
    {"w": random(2, 3, 1, 1), "lo": np.float32(0), "hi": np.float32(6)},
).SerializeToString()


def weight(model: onnx.ModelProto) -> onnx.TensorProto:
    return model.graph.initializer[0]


def one_sentence(error: ModelError) -> None:
    text = str(error)
    assert text.endswith(".") and "\n" not in text and len(text) < 400


def test_missing_directory_and_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    for name, message in (("none.onnx", "No model at"), ("", "directory"), ("empty.onnx", "empty")):
        with pytest.raises(ModelError, match=message) as caught:
            load(tmp_path / name)
        one_sentence(caught.value)


@pytest.mark.parametrize(
    "data", [PNG, b"\x00" * 64, np.random.default_rng(0).bytes(4096), b"hello, world\n"]
)
def test_other_formats(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"not (an|a readable) ONNX model") as caught:
        load(path)
    one_sentence(caught.value)


def test_truncated_at_every_length(tmp_path: Path) -> None:
    data = build(CONV, {"w": random(1, 3, 1, 1)}).SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError) as caught:
            load(path)
        one_sentence(caught.value)


def test_more_than_protobuf_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: takes no space
    with pytest.raises(ModelError, match="2 GiB"):
        load(path)


def test_exported_programs_are_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="may run code"):
        load(tmp_path / "m.pt2")


def test_what_is_no_regular_file_is_not_read() -> None:
    with pytest.raises(ModelError, match=r"'/dev/zero' is not a regular file") as caught:
        load_onnx("/dev/zero")
    one_sentence(caught.value)


def test_other_objects() -> None:
    with pytest.raises(ModelError, match="but got list"):
        load([1, 2])


def _huge(model: onnx.ModelProto) -> None:
    weight(model).dims[:] = [1 << 20, 1 << 20, 3, 3]


def _huge_typed(model: onnx.ModelProto) -> None:
    weight(model).ClearField("raw_data")
    weight(model).float_data.extend([1.0, 2.0])


def _negative(model: onnx.ModelProto) -> None:
    weight(model).dims[0] = -4


def _unknown_type(model: onnx.ModelProto) -> None:
    weight(model).data_type = 99


def _not_a_number(model: onnx.ModelProto) -> None:
    values = random(4, 3, 3, 3)
    values[1, 2, 0, 0] = np.nan
    weight(model).raw_data = values.tobytes()


def _infinite(model: onnx.ModelProto) -> None:
    values = random(4, 3, 3, 3)
    values[0, 0, 0, 0] = -np.inf
    weight(model).raw_data = values.tobytes()


def _no_inputs(model: onnx.ModelProto) -> None:
    del model.graph.input[:]


def _integer_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def _unknown_input_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 71


def _old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 6


def _new_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 23


def _no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def _no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def _dangling(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def _wrong_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("colour", "red"))


@settings(max_examples=40)
@given(st.data())
def test_flipped_bytes_load_or_fail_in_one_sentence(data: st.DataObject) -> None:
    content = bytearray(FLIPPED)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(content)
        try:
            load(path)
        except ModelError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_huge, "Tensor 'w' claims the shape"),
        (_huge_typed, "Tensor 'w' claims the shape .* holds 2"),
        (_negative, "negative dimension"),
        (_unknown_type, "unknown data type 99"),
        (_not_a_number, r"Tensor 'w' holds NaN \(1 of 108\)"),
        (_infinite, "Tensor 'w' holds infinite values"),
        (_no_inputs, "has no inputs"),
        (_integer_input, "input 'x' is int64"),
        (_unknown_input_type, "input 'x' is of the unknown type 71"),
        (_old_opset, "opset 6, but 7 to 22"),
        (_new_opset, "opset 23, but 7 to 22"),
        (_no_opset, "names no ONNX operator set"),
        (_no_outputs, "no outputs"),
        (_dangling, "not a valid ONNX model"),
        (_wrong_attribute, "not a valid ONNX model"),
    ],
)
def test_damaged_models(damage: Callable[[onnx.ModelProto], None], message: str) -> None:
    model = conv_model()
    damage(model)
    with pytest.raises(ModelError, match=message) as caught:
        load(model)
    one_sentence(caught.value)


def test_a_constant_node_is_checked_like_a_weight() -> None:
    tensor = helper.make_tensor("v", TensorProto.FLOAT, [1], [float("nan")])
    nodes = [
        helper.make_node("Constant", [], ["k"], value=tensor),
        helper.make_node("Mul", ["x", "k"], ["y"]),
    ]
    with pytest.raises(ModelError, match="Tensor 'k' holds NaN"):
        load(build(nodes))


def test_an_infinite_bound_is_not_a_broken_weight() -> None:
    clip = helper.make_node("Clip", ["x", "lo", "hi"], ["y"])
    load(build([clip], {"lo": np.float32(0), "hi": np.float32(np.inf)}))


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "sub/../../w.bin", ""])
def test_external_data_may_not_leave_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(4 * 108))
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "m.onnx"
    path.write_bytes(_external(location).SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(path)


def test_a_link_out_of_the_folder_is_followed_and_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(4 * 108))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "w.bin")
    (folder / "m.onnx").write_bytes(_external("w.bin").SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(folder / "m.onnx")


def test_external_data_must_be_there_in_full(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_external("w.bin").SerializeToString())
    with pytest.raises(ModelError, match="which is missing"):
        load(path)
    (tmp_path / "w.bin").write_bytes(bytes(100))
    with pytest.raises(ModelError, match="needs 432 bytes"):
        load(path)
    with pytest.raises(ModelError, match="pass the model's path"):
        load(_external("w.bin"))


def _external(location: str) -> onnx.ModelProto:
    model = conv_model()
    weight(model).ClearField("raw_data")
    weight(model).data_location = TensorProto.EXTERNAL
    weight(model).external_data.add(key="location", value=location)
    return model


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (helper.make_node("Gelu2", ["x"], ["y"], name="g"), "Operator Gelu2 \\(node 'g'\\)"),
        (
            helper.make_node("Foo", ["x"], ["y"], name="f", domain="com.acme"),
            "Operator com.acme.Foo \\(node 'f'\\)",
        ),
        (
            helper.make_node("ConvInteger", ["x", "x"], ["y"], name="q"),
            "Operator ConvInteger \\(node 'q'\\)",
        ),
    ],
)
def test_unknown_operators_are_named_with_their_node(proto: Any, message: str) -> None:
    model = conv_model()
    model.graph.node[0].CopyFrom(proto)
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    with pytest.raises(UnsupportedOperatorError, match=message) as caught:
        load(model)
    one_sentence(caught.value)


def _doubled(times: int) -> list[onnx.NodeProto]:
    names = ["a", *(f"k{i}" for i in range(times - 1)), "c"]
    return [
        helper.make_node("Concat", [old, old], [new], name=new, axis=0)
        for old, new in itertools.pairwise(names)
    ]


BOMBS: dict[str, tuple[list[onnx.NodeProto], dict[str, tuple[int, ...]]]] = {
    "Add": ([helper.make_node("Add", ["a", "b"], ["c"])], {"a": (3000, 1), "b": (1, 3000)}),
    "MatMul": ([helper.make_node("MatMul", ["a", "b"], ["c"])], {"a": (3000, 1), "b": (1, 3000)}),
    "Concat": (_doubled(22), {"a": (1, 1)}),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_constants_that_grow_beyond_the_model_are_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_onnx_prepare, "_FOLD_LIMIT", 2**22)
    nodes, weights = BOMBS[kind]
    total = [
        helper.make_node("ReduceMax", ["c"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    model = build([*nodes, *total], {k: np.ones(s, np.float32) for k, s in weights.items()})
    tracemalloc.start()
    try:
        with pytest.raises(
            ModelError, match=rf"Operator {kind} .* too large for a model"
        ) as caught:
            load(model)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    one_sentence(caught.value)


def test_large_constants_that_nobody_reads_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx_prepare, "_FOLD_LIMIT", 2**22)
    nodes, weights = BOMBS["Add"]
    relu = helper.make_node("Relu", ["x"], ["y"])
    load(build([*nodes, relu], {k: np.ones(s, np.float32) for k, s in weights.items()}))
