"""Simulators: ``functional`` computes what a program computes, ``timing`` how long it takes."""
