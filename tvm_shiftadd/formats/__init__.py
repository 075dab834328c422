"""The integer specification in NumPy: codes, packing, ranges and the meaning of every operator.

Nothing here imports a compiler. ``docs/integer-specification.md`` is the same text for people.
"""
