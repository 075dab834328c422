"""What :mod:`vta_ext.checker` proves of a program, one file a property."""
