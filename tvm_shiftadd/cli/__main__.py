"""``python -m tvm_shiftadd.cli``."""

from __future__ import annotations

import sys

from tvm_shiftadd.cli import main

if __name__ == "__main__":
    sys.exit(main())
