"""``tvm-shiftadd doctor``: whether everything is here that compiling and running needs."""

from __future__ import annotations

from tvm_shiftadd.cli import options, output

HELP = "Check versions, compiler, processor, optional packages."


def command(json: options.Json = False, debug: options.Debug = False) -> int:
    """Diagnose, print; 1 if something required is missing."""
    from tvm_shiftadd import doctor

    with output.clean_stdout(json):
        diagnosis = doctor.diagnose()
    if json:
        output.print_json(diagnosis.to_dict())
    else:
        rows = [[c.name, c.status, c.found, c.remedy] for c in diagnosis.checks]
        output.print_table("tvm-shiftadd doctor", ["", "", "found", "remedy"], rows, right=4)
    return 0 if diagnosis.healthy else 1
