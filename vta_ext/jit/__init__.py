"""Just in time: kernels of micro-ops, the cache that holds them, tokens, and the recorder.

Compiler and TensorIR visitor are built on it, and it can be used by itself:
:class:`vta_ext.jit.recorder.Recorder`.
"""
