"""Images and labels for calibration and evaluation."""

from __future__ import annotations

from tvm_shiftadd.data.dataset import Dataset, Images
from tvm_shiftadd.data.preprocess import Preprocess
from tvm_shiftadd.data.readers import open_dataset, read_arrays

__all__ = ["Dataset", "Images", "Preprocess", "open_dataset", "read_arrays"]
