"""The accelerator: instruction set, compiler, runtime, simulators and RTL. Nothing is here yet.

To come: VTA's machine extended by shift-add and adder modes, described by one table from which
encoder, decoder, simulators and RTL are made. It will use ``tvm_shiftadd.formats`` and
``tvm_shiftadd.dialect``; nothing in ``tvm_shiftadd`` or ``relay_passes`` may import it.
"""
