from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.golden import naive
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats import windows

pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
padding = st.tuples(*[st.integers(0, 2)] * 4)
size = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(size, pair, pair, padding, pair, st.booleans(), st.booleans())
def test_pool_counts_are_those_of_plain_loops(size, kernel, strides, pads, dilation, ceil, include):
    window = {
        "pool_size": kernel,
        "strides": strides,
        "padding": pads,
        "dilation": dilation,
        "ceil_mode": ceil,
    }
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(size[i] + pads[i] + pads[i + 2] >= reach[i] for i in (0, 1)))
    x = np.zeros((1, *size, 1), dtype=np.int8)
    _, counts = naive.avg_pool_sums(x, count_include_pad=include, **window)
    assert np.array_equal(windows.pool_counts(size, count_include_pad=include, **window), counts)


@given(st.integers(1, 12), *[st.integers(1, 4)] * 2, *[st.integers(0, 3)] * 2, st.integers(1, 3))
def test_transpose_size_inverts_conv_size(length, kernel, stride, before, after, dilation):
    grown = (length - 1) * stride - before - after + dilation * (kernel - 1) + 1
    assume(grown >= 1)
    for extra in range(stride):
        made = windows.transpose_size(length, kernel, stride, before, after, dilation, extra)
        assert made == grown + extra
        assert windows.conv_size(made, kernel, stride, before, after, dilation) == length


def test_ceil_mode_window_must_start_inside() -> None:
    # From 5 with stride 3: windows at 0 and 3; ceil mode has no use for one at 6.
    assert windows.pool_size_out(5, 2, 3, 0, 0, ceil_mode=True) == 2
    assert windows.pool_size_out(6, 2, 3, 0, 0, ceil_mode=True) == 2
    assert windows.pool_size_out(7, 2, 3, 0, 0, ceil_mode=True) == 3
    # A window that would start in the padding after the input is dropped.
    assert windows.pool_size_out(4, 2, 2, 0, 1, ceil_mode=True) == 2


def test_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"window of 3 \(dilation 2\) does not fit into 4"):
        windows.conv_size(4, 3, 1, 0, 0, 2)
    with pytest.raises(InputError, match="leaves nothing"):
        windows.transpose_size(1, 1, 1, 1, 0, 1, 0)
