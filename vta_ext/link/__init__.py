"""The machine on a board, over a serial line: frames, the host's side, and the device."""
