"""One machine as operators see it: sizes, types, memory scopes, tensor intrinsics.

The names are those of VTA's ``vta.get_env()``.
"""

from __future__ import annotations

from typing import Any, Final

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.errors import CompileError, ProgramError
from tvm_shiftadd.topi.terms import shift_term
from vta_ext.config import Config
from vta_ext.isa.instruction import pack_immediate
from vta_ext.isa.table import MODE_BY_NAME, OPERATION_BY_NAME
from vta_ext.tensorir.intrinsics import register_gemm

#: Memory scopes of TensorIR, and the buffer each one means.
SCOPES: Final = {
    "local.inp_buffer": "inp",
    "local.wgt_buffer": "wgt",
    "local.acc_buffer": "acc",
    "local.out_buffer": "out",
}
#: What the names of calls that are operations of the ALU begin with.
ALU_CALL: Final = "vta.alu."


class Environment:
    """What an operator needs to know of one machine.

    ``BATCH``, ``BLOCK_IN``, ``BLOCK_OUT``: an input and an accumulator are ``[BATCH, BLOCK]``, a
    weight is ``[BLOCK_OUT, BLOCK_IN]``; the last axes of every buffer have these sizes. ``mode`` is
    the mode of the matrix unit, by default the first that the machine has; ``inp_dtype`` int8, or
    uint8 where the machine knows it. Raises CompileError for what it does not have.
    """

    inp_scope: Final = "local.inp_buffer"
    wgt_scope: Final = "local.wgt_buffer"
    acc_scope: Final = "local.acc_buffer"
    #: The low 8 bits of accumulators; shares its entries with ``acc_scope``.
    out_scope: Final = "local.out_buffer"
    acc_dtype: Final = "int32"
    out_dtype: Final = "int8"

    def __init__(self, config: Config, mode: str | None = None, inp_dtype: str = "int8") -> None:
        self.config, self.mode = config, config.gemm_modes[0] if mode is None else mode
        if self.mode not in config.gemm_modes:
            raise CompileError(
                f"this machine has no GEMM mode {self.mode}; it has {', '.join(config.gemm_modes)}"
            )
        if inp_dtype not in ("int8", "uint8") or (
            inp_dtype == "uint8" and not config.has("unsigned-input")
        ):
            raise CompileError(f"this machine has no inputs of {inp_dtype}; use int8")
        self.inp_dtype = inp_dtype
        self.BATCH = config.batch
        self.BLOCK_IN = self.BLOCK_OUT = config.block
        #: Term codes, one a byte, in mode shift; the host packs two into a byte of DRAM.
        self.wgt_dtype = "uint8" if MODE_BY_NAME[self.mode].memory == "code" else "int8"

    def product(self, x: Any, weight: Any) -> Any:
        """What the matrix unit adds up, int32: the product, the shifted term, or minus |x - w|."""
        x = x.astype("int32")
        if self.mode == "shift":
            return shift_term(x, weight.astype("int32"))
        weight = weight.astype("int32")
        if self.mode == "multiply":
            return x * weight
        return tirx.min(x, weight) - tirx.max(x, weight)

    @property
    def gemm(self) -> str:
        """The name of the tensor intrinsic: ``acc[o] += sum over i of product(inp[i], wgt[o, i])``.

        It is over the loops of batch (where BATCH is not 1), output lane and input lane.
        """
        sizes = f"{self.BATCH}x{self.BLOCK_OUT}x{self.BLOCK_IN}"
        name = f"vta.gemm.{self.mode}.{self.inp_dtype}.{sizes}"
        types = (self.inp_dtype, self.wgt_dtype)
        register_gemm(name, self.mode, (self.BATCH, self.BLOCK_IN), self.product, types)
        return name

    def tensorize(self, schedule: Any, block: Any) -> None:
        """Run the innermost loops of a block as :attr:`gemm`: lanes of output and input."""
        loops = schedule.get_loops(block)
        schedule.tensorize(loops[-2 if self.BATCH == 1 else -3], self.gemm)

    def alu(self, operation: str, x: Any, *operands: Any, **parameters: int) -> Any:
        """An operation of the ALU as an expression, int32: any of the instruction set's table.

        ``x`` is the destination's old value; operands and parameters are those of the table, for
        instance ``alu("req", x, bias, shift, lo=-128, hi=127)``. Plain ``+``, ``*``, ``>>``,
        ``max`` and ``min`` need no call.
        """
        if operation not in OPERATION_BY_NAME:
            raise ProgramError(
                f"no ALU operation {operation!r}; they are {', '.join(OPERATION_BY_NAME)}"
            )
        imm = pack_immediate(OPERATION_BY_NAME[operation], parameters) if parameters else 0
        arguments = (tirx.const(imm, "int32"), x, *operands)
        return tirx.call_pure_extern("int32", ALU_CALL + operation, *arguments)
