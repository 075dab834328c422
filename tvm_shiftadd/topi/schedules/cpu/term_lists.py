# TVMScript has the syntax of Python but not its types.
# mypy: ignore-errors
"""Weight codes sorted by exponent and sign: the form the planar kernel reads.

Output channel o owns row o of ``offsets``: the addresses, in the planes of a tile, of the inputs
of its non-zero terms, first those with exponent 6 and sign +, then 6 and -, 5 and +, and so on.
``starts[o, s]`` is where segment s = 2 * (6 - exponent) + sign begins, ``starts[o, 14]`` the end.
Zero terms are in no segment, so they cost nothing. Bit s of ``starts[o, 15]`` says that the sum
up to exponent 6 - s has to be widened, since with the next exponent 16 bits could overflow.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from tvm_shiftadd._compat import tirx

from .geometry import CHUNK, EXPONENTS, Tile
from .tiled import int64

#: Columns of ``starts``: fourteen segments, their end, and the mask of exponents to widen after.
SEGMENTS = 2 * EXPONENTS
WIDEN = SEGMENTS + 1
STARTS = SEGMENTS + 2
#: What 16 bits hold.
_LIMIT = 32767


def plane_offset(tile: Tile, row: Any, output: Any) -> Any:
    """Address, in the planes of a tile, of reduction index ``row`` for one output channel."""
    shape = tile.shape
    (kh, kw), group = shape.kernel, shape.group_channels
    ci = tirx.floormod(row, group)
    kx = tirx.floormod(tirx.floordiv(row, group), kw)
    ky = tirx.floordiv(row, group * kw)
    if shape.flip:
        kx, ky = kw - 1 - kx, kh - 1 - ky
    if shape.groups > 1:
        ci = tirx.floordiv(output, shape.outputs // shape.groups) * group + ci
    y = ky * shape.dilation[0]
    phase, step = tirx.floormod(y, shape.strides[0]), tirx.floordiv(y, shape.strides[0])
    plane = (kx * tile.plane_channels + ci) * tile.phases + phase
    return plane * tile.plane + step * shape.out_width


def _largest_sum(plus: Any, minus: Any, dtype: str) -> Any:
    """A bound on the magnitude of so many added and subtracted inputs."""
    if dtype == "uint8":
        # Inputs of one sign: what is added and what is subtracted never pull the same way.
        return T.max(plus, minus) << 8
    return (plus + minus) << 7


def term_lists(tile: Tile, dtype: str = "int8") -> tirx.PrimFunc:
    """PrimFunc from packed codes uint8 ``[K, ceil(R/2), O]`` to int32 offsets and starts.

    ``dtype``: of the inputs, int8 or uint8. A counting sort for each output channel: count the
    segments, then fill them.
    """
    K, R, O = tile.shape.terms, tile.shape.reduction, tile.shape.outputs  # noqa: E741
    packed = (R + 1) // 2

    def segment(code):
        return ((EXPONENTS - (code & 7)) << 1) | (code >> 3)

    @T.prim_func(s_tir=True)
    def shiftadd_term_lists(
        codes: T.Buffer(int64(K, packed, O), "uint8"),
        offsets: T.Buffer(int64(O, K * R), "int32"),
        starts: T.Buffer(int64(O, STARTS), "int32"),
    ):
        # Opaque (8): must not be fused into the convolution, which runs far more often.
        T.func_attr({"tirx.noalias": True, "op_pattern": 8, "tirx.is_scheduled": True})
        for o in T.parallel(O):
            with T.sblock("sort"):
                vo = T.axis.spatial(O, o)
                T.reads(codes[0:K, 0:packed, vo])
                T.writes(offsets[vo, 0 : K * R], starts[vo, 0:STARTS])
                fill = T.sblock_alloc_buffer((SEGMENTS,), "int32", scope="local")
                bound = T.sblock_alloc_buffer((1,), "int32", scope="local")
                for s in range(SEGMENTS):
                    fill[s] = 0
                for k, r in T.grid(K, R):
                    code: T.let = (T.cast(codes[k, r // 2, vo], "int32") >> ((r % 2) << 2)) & 15
                    if (code & 7) != 0:
                        fill[segment(code)] = fill[segment(code)] + 1
                starts[vo, 0] = 0
                for s in range(SEGMENTS):
                    starts[vo, s + 1] = starts[vo, s] + fill[s]
                starts[vo, WIDEN] = 0
                bound[0] = 0
                for e in range(EXPONENTS):
                    # Behind the last exponent stands itself: it is widened in any case.
                    after: T.let = T.min(e + 1, EXPONENTS - 1)
                    more: T.let = _largest_sum(fill[after * 2], fill[after * 2 + 1], dtype)
                    most: T.let = T.max(
                        T.max(fill[e * 2], fill[e * 2 + 1]),
                        T.max(fill[after * 2], fill[after * 2 + 1]),
                    )
                    bound[0] = bound[0] + _largest_sum(fill[e * 2], fill[e * 2 + 1], dtype)
                    next_bound: T.let = (bound[0] << 1) + more
                    if e == EXPONENTS - 1 or most > CHUNK or next_bound > _LIMIT:
                        starts[vo, WIDEN] = starts[vo, WIDEN] | (1 << e)
                        bound[0] = 0
                    else:
                        bound[0] = bound[0] << 1
                for s in range(SEGMENTS):
                    fill[s] = starts[vo, s]
                for k, r in T.grid(K, R):
                    code: T.let = (T.cast(codes[k, r // 2, vo], "int32") >> ((r % 2) << 2)) & 15
                    if (code & 7) != 0:
                        offsets[vo, fill[segment(code)]] = plane_offset(tile, r, vo)
                        fill[segment(code)] = fill[segment(code)] + 1

    return shiftadd_term_lists
