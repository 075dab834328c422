"""The ``shiftadd`` dialect: Relax operators of shift-add networks.

Importing this package registers the operators with TVM. ``ops`` holds the functions that build
calls, ``attrs`` the attributes as dataclasses, ``printer`` the legible text of a module,
``reference_module`` a NumPy interpreter of one, and ``purity`` the search for multiplications.
"""

from __future__ import annotations

from tvm_shiftadd.dialect import (
    adder,
    elementwise,
    float_adder,
    layout,
    linear,
    pooling,
    registry,
    scaling,
)


def register_all() -> None:
    """Register every operator with TVM; may be called again."""
    for family in (linear, adder, scaling, elementwise, pooling, layout, float_adder):
        for spec in family.SPECS:
            registry.register(spec)


register_all()
