"""Operators of one's own on the accelerator, written in TE or TensorIR.

``environment`` has what an operator needs to know of a machine and its tensor intrinsics, as VTA's
environment does; ``build`` lowers a scheduled operator to a program and runs it.
"""
