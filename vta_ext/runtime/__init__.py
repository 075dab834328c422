"""Runs compiled regions: devices behind one protocol, buffers, and what the host does around."""
