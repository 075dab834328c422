"""The public functions: load a model, compile it, evaluate it, explain what becomes of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert import Budget, Conversion, ConvertOptions, Graph, Progress
from tvm_shiftadd.convert.feeds import silent
from tvm_shiftadd.data import Dataset
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.evaluation import feeds
from tvm_shiftadd.manifest import IntegerSpecification, Source, TargetInfo, TensorInfo
from tvm_shiftadd.target import (
    AcceleratorTarget,
    CPUTarget,
    CUDATarget,
    DeviceChoice,
    Target,
    accelerator,
    host,
    parse,
)

if TYPE_CHECKING:
    import tvm

    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.convert.plan import Plan
    from tvm_shiftadd.evaluation import Evaluation
    from tvm_shiftadd.explanation import Explanation
    from tvm_shiftadd.topi.schedules.cpu.dot.workload import Choices
    from tvm_shiftadd.topi.schedules.cuda.workload import Choices as CUDAChoices

Array = NDArray[Any]


@dataclass(frozen=True)
class Model:
    """An imported network, float, with its layers under the names its author gave them.

    ``module`` is the Relax module as imported; ``selected`` the same after the float passes, with
    a decision for every operator; ``graph`` what the converter reads.
    """

    module: tvm.IRModule
    name: str

    @cached_property
    def selected(self) -> tvm.IRModule:
        """The canonical, channels-last module with its regions selected."""
        from relay_passes import pipeline

        return pipeline.run(self.module, pipeline.FLOAT_PASSES)

    @cached_property
    def graph(self) -> Graph:
        """The network as NumPy arrays and plain values."""
        from relay_passes.extract import extract_graph
        from tvm_shiftadd.target import cpu, runtime

        # The first function that runs settles how many threads all later ones have.
        runtime.set_num_threads()
        return extract_graph(self.selected, lambda mod: cpu.build(mod, CPUTarget()))

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the importer recorded: source, output names, operators, notes."""
        return dict(self.module["main"].attrs or {})


def load(
    source: Any,
    *,
    shape: Mapping[str, tuple[int, ...]] | tuple[int, ...] | None = None,
    architecture: Any = None,
    weights: str | None = None,
) -> Model:
    """Import a network from an ONNX file, an ``onnx.ModelProto`` or a torch ``ExportedProgram``.

    A checkpoint (``.pth``, ``.pt``, ``.pth.tar``, ``.th``, ``.safetensors``) is read too, with the
    ``torch.nn.Module`` it belongs to as ``architecture``, or recognised as a residual network by
    its keys; ``weights`` says how to read it where the keys do not tell (``deepshift-q``,
    ``apot-2`` to ``apot-5``).

    ``shape`` fixes inputs that leave more than the batch open. Raises ModelError, or its subclass
    UnsupportedOperatorError, with one sentence that names what is wrong, and DependencyError.
    """
    from tvm_shiftadd import importers

    name = Path(source).name if isinstance(source, (str, os.PathLike)) else type(source).__name__
    module = importers.load(source, shape=shape, architecture=architecture, weights=weights)
    return Model(module, name)


def compile(
    model: Model | str | os.PathLike[str],
    *,
    target: Any = "cpu",
    calibration: Dataset | Array | Mapping[str, Array],
    terms: int | str = 2,
    budget: Budget | str | None = None,
    max_drop: float | None = None,
    grain: str | None = None,
    frontier: bool = False,
    options: ConvertOptions | None = None,
    dump_ir: str | os.PathLike[str] | None = None,
    database: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Convert a model to shift-add form and compile it.

    ``calibration``: unlabelled inputs as the model will see them, a Dataset or a float32 array
    in the model's own layout; the scales and biases are fitted to them. ``terms``: K, the most
    terms a weight may have, 1 to 3, or "auto": given out where they are worth most, within
    ``budget`` (a :class:`Budget` or its text, such as "terms=1.3") or so that at most ``max_drop``
    points of top-1 are lost, by ``grain`` (layer, tile, weight). ``frontier``: also measure
    what other budgets would give. ``options`` overrides all of these. ``dump_ir``: a directory
    for the module's text after each pass. ``database``: a tuning database with the parameters of
    kernels. ``progress(phase, done, total)``.

    Raises DataError for unusable calibration data, InputError for an unknown target or option, for
    a database of another target and for a budget out of reach, ConversionError where the integers
    cannot be proved safe or a largest drop cannot be held, CompileError, and DependencyError
    without a cross linker for a target that needs one.
    """
    from tvm_shiftadd.target import cpu, cuda, link

    resolved = parse(target)
    # They may refuse; the conversion takes long.
    cpu.tvm_target(host(resolved))
    link.check_linker(host(resolved).mtriple)
    _tuned(database, resolved)
    if isinstance(resolved, AcceleratorTarget):
        accelerator.backend(resolved.kind).check(resolved.machine)
    if isinstance(resolved, CUDATarget):
        cuda.check(resolved)
    options = options or ConvertOptions.choose(
        terms, budget=budget, max_drop=max_drop, grain=grain, frontier=frontier
    )
    if not isinstance(model, Model):
        model = load(model)
    report = progress or silent
    conversion = convert(model, calibration, options, report)
    return build(
        model, conversion, target=resolved, dump_ir=dump_ir, database=database, progress=report
    )


def convert(
    model: Model,
    calibration: Dataset | Array | Mapping[str, Array],
    options: ConvertOptions | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Convert a model to integers: its plan (scales, term codes, biases) and the report.

    The first half of :func:`compile`, which see for the arguments; needs no target. Raises
    DataError for unusable calibration data, ConversionError where the integers cannot be proved
    safe.
    """
    from tvm_shiftadd.convert import convert as convert_graph

    graph = model.graph
    data = Dataset(calibration) if isinstance(calibration, np.ndarray) else calibration
    size = len(data) if isinstance(data, Dataset) else max(map(len, data.values()), default=0)
    tell = progress or silent

    def report(phase: str, done: int, total: int) -> None:
        tell(phase, done, total or (size if phase == "calibrate" else 0))

    return convert_graph(graph, lambda: feeds(graph, data), options or ConvertOptions(), report)


def build(
    model: Model,
    conversion: Conversion,
    *,
    target: Any = "cpu",
    dump_ir: str | os.PathLike[str] | None = None,
    database: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compile a converted model for a target.

    The second half of :func:`compile`, which see for the arguments. Raises InputError for an
    unknown target or a database of another one, CompileError, and VerificationError where a
    multiplication of data is left.
    """
    from relay_passes import pipeline
    from relay_passes.lift_constants import constants
    from tvm_shiftadd import costs
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.explanation import explain_model
    from tvm_shiftadd.target import cpu, cuda
    from tvm_shiftadd.target.calls import CallRecord
    from tvm_shiftadd.tune import task

    resolved, graph, plan = parse(target), model.graph, conversion.plan
    report = progress or silent
    report("compile", 0, 1)
    dump = None if dump_ir is None else Path(dump_ir)
    if dump is not None:
        pipeline.write_dump(dump, "Imported", model.module)
        pipeline.run(model.module, pipeline.FLOAT_PASSES, dump=dump)
    mod = _integers(model, plan, dump)
    tuned = _tuned(database, resolved)
    split = None
    if isinstance(resolved, AcceleratorTarget):
        package = accelerator.backend(resolved.kind)
        split = package.partition(
            mod, resolved.machine, lambda *done: report("programs", *done), tuned.tilings
        )
        mod = split.module
        if dump is not None:
            pipeline.write_dump(dump, "Partition", split.marked)
    parameters = constants(mod)
    given = pipeline.ensured((*pipeline.FLOAT_PASSES, *pipeline.integer_passes(plan)))
    mod = pipeline.run(mod, pipeline.FINAL_PASSES, given=given, dump=dump)
    record = CallRecord()
    inputs = len(graph.inputs)
    if isinstance(resolved, CUDATarget):
        executable = cuda.build(mod, resolved, data_inputs=inputs, record=record, choices=tuned.gpu)
        beside = resolved.attributes
    else:
        executable = cpu.build(
            mod, host(resolved), data_inputs=inputs, record=record, choices=tuned.processor
        )
        beside = split.attributes if split else {}
    report("compile", 1, 1)
    return Artifact(
        executable,
        parameters,
        source=_source(model),
        target=TargetInfo(_kind(resolved), host(resolved).as_dict() | beside),
        inputs=_tensors(graph, graph.inputs, graph.inputs, _types(model.selected["main"].params)),
        outputs=_tensors(graph, graph.outputs, _output_names(model), _output_types(model)),
        specification=IntegerSpecification.of(graph, plan),
        report={
            "conversion": conversion.report.to_dict(),
            "costs": costs.count(graph, plan).to_dict(),
            "operators": [op.to_dict() for op in explain_model(model, split).operators],
            "calls": record.calls,
            "kernels": task.chosen([*tuned.processor.made, *tuned.gpu.made]),
            "accelerator_kernels": split.kernels if split else [],
        },
        programs=split.files if split else None,
    )


def evaluate(
    model: Model | Artifact | str | os.PathLike[str],
    data: Dataset,
    *,
    calibration: Dataset | Array | Mapping[str, Array] | None = None,
    target: Any = "cpu",
    terms: int | str = 2,
    budget: Budget | str | None = None,
    max_drop: float | None = None,
    grain: str | None = None,
    frontier: bool = False,
    options: ConvertOptions | None = None,
    device: DeviceChoice | str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model in float and in shift-add form, or an artifact, on the same images.

    A model is compiled first and needs ``calibration``; an artifact has no float network left, so
    its float figures are None. ``device``: as for :meth:`Artifact.connect`, None for the usual one.
    Raises what :func:`compile` and that do, InputError for another machine's target, and DataError
    where the network's output is no row of scores an image.
    """
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.evaluation import compare
    from tvm_shiftadd.target import link

    if isinstance(model, (str, os.PathLike)):
        model = Artifact.load(model) if Path(model).is_dir() else load(model)
    if isinstance(model, Artifact):
        if device is not None:
            model.connect(device)
        return compare(model, None, data, progress or silent)
    if calibration is None:
        raise InputError(
            "expected calibration data for a model that is still float, got none; "
            "pass --calib, or evaluate a compiled artifact"
        )
    resolved = parse(target)
    link.check_native(host(resolved).mtriple)
    if device is not None:  # before the conversion, which takes long
        device = accelerator.device_of(_kind(resolved), device)
    artifact = compile(
        model,
        target=resolved,
        calibration=calibration,
        terms=terms,
        budget=budget,
        max_drop=max_drop,
        grain=grain,
        frontier=frontier,
        options=options,
        progress=progress,
    )
    if device is not None:
        artifact.connect(device)
    return compare(artifact, model.graph, data, progress or silent)


def explain(
    model: Model | Artifact | str | os.PathLike[str], *, target: Any = "cpu"
) -> Explanation:
    """What becomes of every operator of a model, or became of an artifact's, and why.

    For an accelerator also where it runs: the model is converted for that, with random inputs, and
    its programs are made. An artifact has its target. Raises ModelError, ArtifactError, and
    InputError for an unknown target.
    """
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.explanation import explain_model, explain_report

    resolved = parse(target)
    if isinstance(model, (str, os.PathLike)):
        model = Artifact.load(model) if Path(model).is_dir() else load(model)
    if isinstance(model, Artifact):
        return explain_report(model.report)
    if not isinstance(resolved, AcceleratorTarget):
        return explain_model(model)
    package = accelerator.backend(resolved.kind)
    package.check(resolved.machine)
    # Where operators run does not depend on what the integers are.
    conversion = convert(model, _random_inputs(model.graph), ConvertOptions(compensation=False))
    mod = _integers(model, conversion.plan)
    return explain_model(model, package.partition(mod, resolved.machine, lambda *_: None, {}))


def _random_inputs(graph: Graph) -> dict[str, Array]:
    random, count = np.random.default_rng(0), graph.batch or 4
    shapes = {name: (count, *graph.shapes[name][1:]) for name in graph.inputs}
    return {name: random.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}


def _integers(model: Model, plan: Plan, dump: Path | None = None) -> tvm.IRModule:
    """A converted model as a module of the dialect."""
    from relay_passes import pipeline

    given = pipeline.ensured(pipeline.FLOAT_PASSES)
    return pipeline.run(model.selected, pipeline.integer_passes(plan), given=given, dump=dump)


class _Tuned(NamedTuple):
    """Tuned parameters: of a processor's kernels, of a GPU's, of an accelerator's by workload."""

    processor: Choices
    gpu: CUDAChoices
    tilings: dict[str, Mapping[str, Any]]


def _tuned(database: str | os.PathLike[str] | None, target: Target) -> _Tuned:
    from tvm_shiftadd.topi.schedules.cpu.dot.workload import Choices
    from tvm_shiftadd.topi.schedules.cuda.workload import Choices as CUDAChoices
    from tvm_shiftadd.tune import accelerator as accelerated
    from tvm_shiftadd.tune import cpu as tuning
    from tvm_shiftadd.tune import cuda as gpus

    path = None if database is None else Path(database)
    if isinstance(target, CUDATarget):
        return _Tuned(Choices(), gpus.chosen(path, target), {})
    if isinstance(target, AcceleratorTarget):
        tilings = accelerated.tuned(path, target)
        return _Tuned(tuning.chosen(None, target.host), CUDAChoices(), tilings)
    return _Tuned(tuning.chosen(path, target), CUDAChoices(), {})


def _kind(target: Target) -> str:
    """The kind of a target as manifests have it."""
    return "cpu" if isinstance(target, CPUTarget) else target.kind


def _source(model: Model) -> Source:
    recorded = {str(k): str(v) for k, v in dict(model.attrs.get("shiftadd.source", {})).items()}
    return Source(model.name, recorded.get("sha256", ""), recorded.get("format", ""))


def _output_names(model: Model) -> tuple[str, ...]:
    names = tuple(str(name) for name in model.attrs.get("shiftadd.outputs", ()))
    return names if len(names) == len(model.graph.outputs) else model.graph.outputs


def _output_types(model: Model) -> list[str]:
    """The element types of the outputs: an argmax gives integers."""
    body = model.selected["main"].body
    return _types(getattr(body.ty, "fields", [body.ty]))


def _types(values: Iterable[Any]) -> list[str]:
    """Element types of Relax expressions or types."""
    return [str(getattr(value, "ty", value).dtype) for value in values]


def _tensors(
    graph: Graph, tensors: Sequence[str], names: Sequence[str], types: Sequence[str]
) -> tuple[TensorInfo, ...]:
    rows = zip(tensors, names, types, strict=True)
    return tuple(TensorInfo(name, graph.shapes[tensor], dtype) for tensor, name, dtype in rows)
