"""Tuning: trying the parameters of kernels, and a database of the best."""
