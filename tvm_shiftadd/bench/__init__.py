"""Measuring: whole networks beside other runtimes, and layers against what the machine can do.

``timing`` takes turns, ``machine`` says where, ``results`` writes it down; benchmarks of all kinds
use these three. ``networks`` with ``peers`` is ``tvm-shiftadd bench``, ``layers`` with ``peaks``
is ``tvm-shiftadd profile``; ``memory`` is of whole processes, ``limits`` of
single kernels.
"""
