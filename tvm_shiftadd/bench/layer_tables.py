"""A profile as tables for people: the machine's peaks, and the calls."""

from __future__ import annotations

from tvm_shiftadd.bench.layers import Call, Profile
from tvm_shiftadd.bench.results import Table

_COLUMNS = (
    "layer",
    "by",
    "us",
    "share %",
    "10^9/s",
    "of peak %",
    "GB/s",
    "of bandwidth %",
    "bound",
    "of bound %",
)


def tables(profile: Profile) -> list[Table]:
    """The measured peaks, and the calls with what bounds them."""
    return [_peak_table(profile), _call_table(profile)]


def _peak_table(profile: Profile) -> Table:
    rows = (
        ("multiply-accumulates of bytes", "10^9/s", *(_giga(p.macs) for p in profile.peaks)),
        ("16-bit shifts and additions", "10^9/s", *(_giga(p.shift_adds) for p in profile.peaks)),
        ("read from L2", "GB/s", *(_giga(p.l2) for p in profile.peaks)),
        ("read from L3", "GB/s", *(_giga(p.l3) for p in profile.peaks)),
        ("read from memory", "GB/s", *(_giga(p.memory) for p in profile.peaks)),
        ("a call that does nothing", "us", *(f"{1e6 * p.call:.2f}" for p in profile.peaks)),
    )
    threads = (f"threads: {peaks.threads}" for peaks in profile.peaks)
    notes: tuple[str, ...] = ()
    if any(peaks.crowded for peaks in profile.peaks):
        notes = (
            "The threads did not have a core each: other programs run here. What a core has of its "
            "own is one thread's times their number; times with several threads say little.",
        )
    return Table("Measured peaks", ("", "", *threads), rows, 2, notes)


def _call_table(profile: Profile) -> Table:
    rows: list[tuple[object, ...]] = []
    total = sum(call.seconds[1] for call in profile.calls)
    for call in profile.calls:
        seconds = max(call.seconds[1], 1e-9)
        rows.append(
            (
                call.name,
                _means(call),
                f"{1e6 * seconds:.1f}",
                f"{100 * seconds / total:.1f}",
                f"{call.work / seconds / 1e9:.1f}" if call.work else None,
                None if call.of_peak is None else f"{100 * call.of_peak:.0f}",
                f"{call.bytes / seconds / 1e9:.1f}",
                f"{100 * call.of_bandwidth:.0f}",
                call.bound,
                f"{100 * call.least / seconds:.0f}",
            )
        )
    whole, inside = profile.seconds[1], profile.seconds_in_calls
    count = len(profile.calls)
    least = sum(call.least for call in profile.calls)
    between = f"{1e6 * (whole - inside):.1f} us ({100 * (1 - inside / whole):.1f} %)"
    notes = (
        f"All {count} calls: {1e6 * inside:.1f} us; a whole run: {1e6 * whole:.1f} us, "
        f"of which {between} are between calls; at the machine's peaks: {1e6 * least:.1f} us "
        f"({100 * least / whole:.0f} %).",
        "Work: multiply-accumulates, or shifts by terms where they are real shifts; what falls on "
        "padding is counted. Bytes: each operand and result once, from the nearest cache that "
        "holds them all. Bound: what takes longest at the peaks, and its share of the time.",
    )
    threads = profile.peaks[0].threads
    title = f"Calls on {threads} thread{'s' if threads > 1 else ''}"
    return Table(title, _COLUMNS, tuple(rows), 2, notes)


def _means(call: Call) -> str:
    """The instruction that the work is done with; where none is counted, the first operator."""
    if call.work:
        return call.instruction or "shifts"
    return call.operators[0].rpartition(".")[2] if call.operators else ""


def _giga(value: float | None) -> str | None:
    return None if value is None else f"{value / 1e9:.1f}"
