"""Compute definitions of every operator in TE: the real shifts and adds that kernels start from.

One file a family; ``schedules`` makes them fast. Nothing here multiplies data: products are of
indices and extents only.
"""
