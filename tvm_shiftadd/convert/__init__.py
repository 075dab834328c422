"""Conversion of a float network to integers: calibration, term search, bias correction. NumPy only."""
