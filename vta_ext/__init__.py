"""The accelerator: VTA's machine, extended by shift-add and adder arithmetic.

``config`` describes one machine, ``isa`` its instructions (one table, everything else made from
it), ``program`` and ``checker`` what runs on it, ``sim`` how. Nothing here imports TVM, and
nothing in ``tvm_shiftadd`` but its command line may import this package.
"""
