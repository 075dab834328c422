"""``tvm-shiftadd demo``: a small network from float to shift-add, without a download."""

from __future__ import annotations

from tvm_shiftadd.cli import options, output

HELP = "Take a small network from float to shift-add, explained."


def command(json: options.Json = False, debug: options.Debug = False) -> None:
    """Run the demo; with ``--json`` its tables go to standard error, and figures are printed."""
    with output.clean_stdout(json):
        from tvm_shiftadd import demo

        result = demo.run(output.console(error=json))
    if json:
        output.print_json(result)
