"""Networks without Python: program images, and the C runtime that runs them on bare metal.

``layout.py`` lays an image's words out and makes the C header of them; ``image.py`` writes and
reads images, ``borders.py`` says how inputs and outputs lie in one, ``make.py`` makes one of an
artifact. The runtime is ``shiftadd.c``.
"""
