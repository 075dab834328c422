"""The kernels of each kind of target; ``cpu`` and ``cuda`` share ``fusion`` and ``shapes`` only."""
