"""An adder convolution for GPUs as one writes it by hand: what generated kernels are timed against.

It is called by TensorIR, so that it is compiled, launched and timed as those are.
"""

# TVMScript's annotations are values.
# mypy: disable-error-code="valid-type, untyped-decorator, no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm.script import tirx as T

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.bench.gpu_layers import Layer, Timer, parameters, repeated
from tvm_shiftadd.target import CUDATarget, cuda

#: Outputs and pixels of a block: channels and outputs of a layer must be multiples.
TILE = 16

_SOURCE = """
// A block computes 16 pixels times 16 outputs, with both operands in shared memory.
// Maps int8 [batch, size, size, channels], weights int8 [9 * channels, outputs], 3x3 windows with a
// border of zeros; channels and outputs in sixteens. out = bias - sum |x - w|, int32.
static __device__ void adder_reference(const signed char* x, const signed char* w, const int* bias,
                                       int* out, int batch, int size, int channels, int outputs) {
  __shared__ signed char xs[16][17], ws[16][17];
  int column = threadIdx.x % 16, row = threadIdx.x / 16;
  int pixel = blockIdx.x * 16 + row, output = blockIdx.y * 16 + column;
  int image = pixel / (size * size), y = pixel / size % size, z = pixel % size, sum = 0;
  for (int tap = 0; tap < 9; tap++) {
    int ty = y + tap / 3 - 1, tz = z + tap % 3 - 1;
    bool inside = image < batch && ty >= 0 && ty < size && tz >= 0 && tz < size;
    for (int first = 0; first < channels; first += 16) {
      long long at = (((long long)image * size + ty) * size + tz) * channels + first + column;
      xs[row][column] = inside ? x[at] : 0;
      ws[row][column] = w[(tap * channels + first + row) * outputs + output];
      __syncthreads();
      for (int k = 0; k < 16; k++) {
        int difference = xs[row][k] - ws[k][column];
        sum += difference < 0 ? -difference : difference;
      }
      __syncthreads();
    }
  }
  if (image < batch) out[(long long)pixel * outputs + output] = bias[output] - sum;
}
"""


def reference(layer: Layer) -> tirx.PrimFunc:
    """A function (x, weights, bias, out) of flat arrays for a 3x3 adder layer of stride 1."""
    blocks, panels = -(-layer.pixels // TILE), layer.outputs // TILE
    sizes = (layer.batch, layer.size, layer.inputs, layer.outputs)

    @T.prim_func(s_tir=True)
    def main(
        x: T.Buffer((layer.pixels * layer.inputs,), "int8"),
        w: T.Buffer((layer.reduction * layer.outputs,), "int8"),
        bias: T.Buffer((layer.outputs,), "int32"),
        out: T.Buffer((layer.results,), "int32"),
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        for _ in T.thread_binding(blocks, thread="blockIdx.x"):
            for _ in T.thread_binding(panels, thread="blockIdx.y"):
                for _ in T.thread_binding(256, thread="threadIdx.x"):
                    T.evaluate(
                        T.cuda.func_call(
                            "adder_reference",
                            T.address_of(x[0]),
                            T.address_of(w[0]),
                            T.address_of(bias[0]),
                            T.address_of(out[0]),
                            *sizes,
                            source_code=_SOURCE,
                        )
                    )

    return main


def timer(layer: Layer, arch: str, device: Any) -> Timer:
    """The time of that function on a GPU."""
    built = cuda.build_function(reference(layer), CUDATarget(arch=arch))
    weights, bias = parameters(layer, 1)
    x, out = layer.inputs_of(np.random.default_rng(2)), np.zeros(layer.results, np.int32)
    arrays = [array.ravel() for array in (x, weights, bias, out)]
    given = [tvm.runtime.tensor(array, device) for array in arrays]
    return repeated(lambda number: built.time_evaluator("main", device, number=number)(*given).mean)
