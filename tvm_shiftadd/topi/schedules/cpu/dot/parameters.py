"""What may differ between two kernels of one layer that compute the same integers.

Each kernel takes its choices from one of these records. The rules of ``plan``, ``dense`` and
``depthwise`` fill one in for a layer, the tuner tries others, and its database keeps the best.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Raised when a record's fields change their meaning, or a kernel so much that times change:
#: databases of other versions are then refused.
VERSION = 2


@dataclass(frozen=True)
class ConvParameters:
    """How the convolution kernel is cut up.

    A tile is ``rows x columns`` pixels times ``vectors`` vectors of outputs; of a dense layer,
    whose maps are single pixels, ``rows`` are images. ``unroll`` quads of the reduction make a
    turn of the innermost loop. With ``segment`` quads of a run all tiles use those before the
    next ones are read; with 0 each tile goes through all. ``fetch``: weights are brought into the
    cache ahead of their use. ``parts``: parts of the map's rows that threads share besides the
    blocks of outputs. ``parallel``: whether threads are started at all.
    """

    rows: int = 1
    columns: int = 1
    vectors: int = 1
    unroll: int = 1
    segment: int = 0
    fetch: bool = False
    parts: int = 1
    parallel: bool = False


@dataclass(frozen=True)
class DepthwiseParameters:
    """How the depthwise kernel is cut up.

    ``groups`` of neighbouring pixels are computed together, four vectors of sums each; ``parts``
    are the parts of the map's rows that threads share.
    """

    groups: int = 1
    parts: int = 1


Parameters = ConvParameters | DepthwiseParameters
