"""The machine in synthesisable RTL, written in Amaranth, and a Verilated device that runs it.

One unit a file. Decoding follows the layout of :mod:`vta_ext.isa.layout`, so no bit position is
written down here. The extra ``rtl`` installs what these modules need; importing one without it
is an ImportError, except for :mod:`vta_ext.rtl.verilated`, which says what to install.
"""
