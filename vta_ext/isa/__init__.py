"""The instruction set: ``table`` says what there is; every other module is made from it.

schema        what entries of the table are made of
table         fields, operations, memories and their meaning; knows no configuration
arithmetic    the integer functions that the table's entries point to (NumPy)
layout        bit positions for one configuration
instruction   instructions and micro-ops as values, with constructors
codec         instructions and micro-ops to bits and back
assembly      programs to text and back
semantics     what one instruction does to a machine, micro-op by micro-op
generators    Markdown page, C header, layout for RTL
"""
