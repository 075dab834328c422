"""Participants' turns, and what is made of their times."""

from __future__ import annotations

import pytest

from tvm_shiftadd.bench import timing
from tvm_shiftadd.bench.timing import Quartiles, Timing, interleaved


def test_everybody_has_a_turn_in_every_round() -> None:
    called: list[str] = []
    participants = {name: (lambda name=name: called.append(name)) for name in "abc"}
    timings = interleaved(participants, 3, pause=0, block=0)
    # In each round, the first included, one call to warm up and at least one that is timed.
    assert [called.count(name) for name in "abc"] == [8, 8, 8]
    rounds = [called[6 * i : 6 * i + 6] for i in range(4)]
    assert all(sorted(one) == list("aabbcc") for one in rounds)
    assert len({"".join(one) for one in rounds}) > 1
    assert list(timings) == list("abc")
    assert all(len(t.wall) == len(t.cpu) == 3 for t in timings.values())


def test_calls_fill_the_block() -> None:
    calls = []
    interleaved({"only": lambda: calls.append(1)}, 1, pause=0, block=0.02)
    assert len(calls) > 10


def test_a_long_call_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LONG", 0.0)
    calls = []
    found = interleaved({"only": lambda: calls.append(1)}, 2, pause=0, block=0.02)
    assert len(calls) == 3
    assert len(found["only"].wall) == 2


def test_progress_is_told() -> None:
    told = []
    interleaved({"a": int}, 2, pause=0, block=0, progress=lambda *state: told.append(state))
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_quartiles() -> None:
    assert Quartiles.of([1, 2, 3, 4, 5]) == Quartiles(2, 3, 4)


def test_a_ratio_is_taken_within_rounds() -> None:
    """A machine that is twice as slow in one round changes no ratio."""
    ours = Timing((1.0, 2.0, 1.0), (1.0, 1.0, 1.0))
    theirs = Timing((3.0, 6.0, 3.0), (2.0, 2.0, 2.0))
    assert ours.ratio(theirs) == Quartiles(3, 3, 3)
    assert ours.ratio(theirs, "cpu").median == 2
    assert ours.median() == 1
    assert theirs.median("cpu") == pytest.approx(2)
