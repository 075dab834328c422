"""Kernels of layers for NVIDIA GPUs."""
