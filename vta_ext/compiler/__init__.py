"""From the dialect's regions to programs of the accelerator.

``frontend`` reads a module of the dialect; everything behind it is plain Python and NumPy:
``lower`` makes layers, ``schedule`` steps of tiles, ``builder`` instructions, ``tokens`` their
order, ``compile`` puts it together.
"""
