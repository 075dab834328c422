"""``tvm-shiftadd explain``: what becomes of every operator, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_shiftadd.cli import options, output

HELP = "List every operator: shift-add, adder or host, and why."


@dataclass(frozen=True)
class Config:
    """One call of ``explain``."""

    model: options.ModelChoice
    target: str


def command(
    model: options.ModelOrArtifact,
    target: options.Target = "cpu",
    shape: options.Shape = None,
    weights: options.Weights = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Load, explain, print."""
    config = Config(options.ModelChoice(model, tuple(shape or ()), weights), target)
    with output.clean_stdout(json):
        explanation = _explain(config)
    if json:
        output.print_json(explanation)
        return
    columns = _COLUMNS if "accelerator_share" in explanation else _COLUMNS[:5]
    rows = [[operator.get(key) for key, _ in columns] for operator in explanation["operators"]]
    output.print_table(config.model.path.name, [title for _, title in columns], rows, right=4)
    lines = [f"{100 * explanation['shift_add_share']:.2f} % of the multiply-accumulates become "]
    lines[0] += "shift-add."
    if "accelerator_share" in explanation:
        lines.append(f"{100 * explanation['accelerator_share']:.2f} % run on the accelerator.")
    output.print_lines(*lines, *explanation["notes"])


#: Keys and titles of the table; the last ones where there is an accelerator.
_COLUMNS = (
    ("name", "name"),
    ("operator", "operator"),
    ("placement", "becomes"),
    ("reason", "reason"),
    ("macs", "MACs"),
    ("device", "runs on"),
    ("device_reason", "because"),
)


def _explain(config: Config) -> dict[str, Any]:
    from tvm_shiftadd import api

    path = config.model.path
    if not path.is_dir():
        return api.explain(config.model.load(), target=config.target).to_dict()
    config.model.refuse_for_artifact()
    return api.explain(path).to_dict()
