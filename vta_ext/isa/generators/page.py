"""The page docs/isa.md: every field, operation and memory, with bit diagrams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vta_ext.config import Config
from vta_ext.isa import table
from vta_ext.isa.layout import Bits, Layout, immediate_layout, instruction_layout, micro_op_layout
from vta_ext.isa.schema import Field, Word

_CELL = 3
_ROW = 32

_INTRO = """\
# Instruction set

<!-- Made from vta_ext/isa/table.py by `tvm-shiftadd isa doc`; edit the table, not this page. -->

Bit positions are those of configuration `{hash}`: {depths}. They follow buffer depths; VTA's
base configuration has the same depths and positions, and what is marked as an extension is
reserved there.

An instruction is 128 bits, sixteen bytes little-endian in memory; a micro-op is 32 bits. Reserved
bits are 0: a decoder may rely on it, and assembler and checker refuse anything else. Diagrams have
the most significant bit on the left; a number in a narrow cell is the field's number in the table
below it. How the machine runs instructions is described in [accelerator.md](accelerator.md), what
the integers mean in [integer-specification.md](integer-specification.md).

Assembly is one instruction a line, `mnemonic field=value ...`. Fields that are 0 are left out,
flags that are 1 are their name alone:

    {example}
"""


def diagram(layout: Layout) -> str:
    """Rows of 32 bits as boxes, the topmost row first."""
    numbers = {bits.low: str(number) for number, bits in enumerate(layout.fields, 1)}
    rows: list[str] = []
    for high in range(layout.width - 1, -1, -_ROW):
        low = max(high - _ROW + 1, 0)
        pieces = [_piece(bits, low, high) for bits in layout.bits]
        visible = [piece for piece in pieces if piece is not None]
        rows += _box(visible[::-1], numbers)
    return "\n".join(rows)


def _piece(bits: Bits, low: int, high: int) -> tuple[Bits, int, int] | None:
    """The part of ``bits`` between two positions."""
    first, last = max(bits.low, low), min(bits.high, high)
    return (bits, first, last) if first <= last else None


def _box(pieces: list[tuple[Bits, int, int]], numbers: dict[int, str]) -> list[str]:
    rule = head = body = ""
    for bits, first, last in pieces:
        inner = (last - first + 1) * _CELL - 1
        rule += "+" + "-" * inner
        ends = str(last).ljust(inner) if last == first or inner < 6 else None
        head += " " + (ends or str(last) + str(first).rjust(inner - len(str(last))))
        name = "0" if bits.field is None else bits.name
        body += "|" + (name if len(name) <= inner else numbers.get(bits.low, "")).center(inner)
    return [head.rstrip(), rule + "+", body + "|", rule + "+"]


def _table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        # A bar inside a cell would end it.
        yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"


def _widths(word: Word) -> dict[str, str]:
    return {entry.name: str(entry.width) for entry in word if isinstance(entry, Field)}


def _fields(layout: Layout, widths: dict[str, str]) -> Iterator[str]:
    rows: list[tuple[object, ...]] = []
    for number, bits in enumerate(layout.fields, 1):
        assert bits.field is not None
        place = str(bits.low) if bits.width == 1 else f"{bits.low} to {bits.high}"
        note = " Signed." if bits.field.signed else ""
        note += f" *Extension {bits.field.extension}.*" if bits.field.extension else ""
        rows.append((number, f"`{bits.name}`", place, widths[bits.name], bits.field.meaning + note))
    yield from _table(("no.", "field", "bits", "width", "meaning"), rows)


def _instructions(config: Config) -> Iterator[str]:
    shown: dict[int, str] = {}
    for kind in table.INSTRUCTIONS:
        yield f"\n## {kind.name}: opcode {kind.opcode}, `{kind.mnemonic}`\n"
        yield kind.meaning
        if kind.reason:
            yield f"\n*Extension.* {kind.reason}"
        if id(kind.words) in shown:
            yield f"\nThe fields are those of {shown[id(kind.words)]}."
            continue
        shown[id(kind.words)] = kind.name
        layout = instruction_layout(kind, config)
        yield f"\n```text\n{diagram(layout)}\n```\n"
        yield from _fields(layout, {n: w for word in kind.words for n, w in _widths(word).items()})


def _operations(config: Config) -> Iterator[str]:
    yield "\n## ALU operations\n"
    yield (
        "The code is `alu_op + 8 * alu_page`. Lanes are 32-bit and wrap. y is the second operand. "
        "A shift amount is the low six bits of a lane or immediate, -32 to 31; a negative one "
        "shifts the other way.\n"
    )
    rows: list[tuple[object, ...]] = []
    for operation in table.ALU_OPERATIONS:
        fields = [
            f"`{bits.name}` bits {bits.low} to {bits.high}"
            for bits in immediate_layout(operation, config).fields
        ]
        rows.append(
            (
                operation.code,
                f"`{operation.name}`",
                operation.meaning,
                operation.source.value,
                ", ".join(fields),
                operation.reason or "VTA's own",
            )
        )
    header = ("code", "name", "meaning", "operands besides dst", "imm", "reason")
    yield from _table(header, rows)


def _memories() -> Iterator[str]:
    yield "\n## Memories\n"
    rows: list[tuple[object, ...]] = []
    for memory in table.MEMORIES:
        load = memory.load.value if memory.load else "-"
        store = "yes" if memory.store else "-"
        rows.append((memory.id, f"`{memory.name}`", memory.meaning, load, store))
    yield from _table(("id", "name", "element", "loaded by module", "can be stored"), rows)
    yield (
        "\nId 6 and storing of `acc` are extensions. In a machine that has integer weights and "
        "codes, both use the same buffer, one entry each."
    )


def _extensions() -> Iterator[str]:
    yield "\n## Extensions\n"
    rows: list[tuple[object, ...]] = [
        (f"`{entry.name}`", entry.meaning, entry.reason) for entry in table.EXTENSIONS
    ]
    yield from _table(("name", "meaning", "reason"), rows)
    yield (
        "\nFurther extensions are the GEMM modes and ALU operations above that give a reason. "
        f"Reserved are opcode {_free('opcode', table.INSTRUCTIONS, 8)}, memory id "
        f"{_free('id', table.MEMORIES, 8)} and ALU codes {_free('code', table.ALU_OPERATIONS, 16)}."
    )


def _free(key: str, entries: Sequence[object], limit: int) -> str:
    """The numbers below ``limit`` that no entry has."""
    used = {getattr(entry, key) for entry in entries}
    return ", ".join(str(number) for number in range(limit) if number not in used)


def markdown(config: Config) -> str:
    """The page for ``config``, which should have all extensions so that none is missing."""
    parts = [
        _INTRO.format(
            hash=config.hash,
            depths=config.depths,
            example="load.inp push_next sram_base=16 dram_base=64 y_size=1 x_size=14 x_stride=14",
        ),
        *_instructions(config),
        "\n## Micro-ops\n",
        "In the buffer `uop`. GEMM and ALU instructions run a range of them for each iteration of "
        "two loops, outer i and inner j.\n",
        f"```text\n{diagram(micro_op_layout(config))}\n```\n",
        *_fields(micro_op_layout(config), _widths(table.MICRO_OP)),
        *_operations(config),
        *_memories(),
        *_extensions(),
    ]
    return "\n".join(parts) + "\n"
