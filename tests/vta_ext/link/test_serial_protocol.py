"""Frames, and the host's side of the link against a board in software on a disturbed line."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vta_ext.link.far_side import Fault, Line, SoftwareBoard
from tests.vta_ext.programs import TINY
from tvm_shiftadd.errors import DeviceError
from vta_ext.link.frames import FLAG, MAX_WORDS, Decoder, Frame, Opcode, Status, decode, encode
from vta_ext.link.host import Board, Link, Patience
from vta_ext.presets import SMALL
from vta_ext.rtl.map import Register

TRIES = Patience().tries


def linked(line: Line, **more: object) -> Link:
    return Link(line, clock=line.clock, **more)  # type: ignore[arg-type]


def frames() -> st.SearchStrategy[Frame]:
    payload = st.integers(0, 8).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
    byte, half, word = st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
    special = st.sampled_from([b"\x7e\x7d\x7e\x7d", b"\x7d\x5e\x7d\x5d", b"}}}}~~~~"])
    return st.builds(Frame, byte, byte, half, word, payload | special)


def faults() -> st.SearchStrategy[Fault]:
    """What may happen to a transfer: places are fractions of its length."""
    place = st.floats(0, 1, exclude_max=True)

    def at(data: bytes, where: float) -> int:
        return int(len(data) * where)

    def flip(where: float, bits: int) -> Fault:
        return lambda d: (
            d[: at(d, where)]
            + bytes([b ^ bits if n == 0 else b for n, b in enumerate(d[at(d, where) :])])
        )

    def drop(where: float, count: int) -> Fault:
        return lambda d: d[: at(d, where)] + d[at(d, where) + count :]

    def double(where: float, count: int) -> Fault:
        return lambda d: d[: at(d, where) + count] + d[at(d, where) :]

    def cut(where: float) -> Fault:
        return lambda d: d[: at(d, where)]

    def insert(where: float, garbage: bytes) -> Fault:
        return lambda d: d[: at(d, where)] + garbage + d[at(d, where) :]

    count, garbage = st.integers(1, 9), st.binary(max_size=40)
    noise = st.lists(st.sampled_from([FLAG, 0x7D, 0, 0xFF]), max_size=9).map(bytes)
    return st.one_of(
        st.builds(flip, place, st.integers(1, 255)),
        st.builds(drop, place, count),
        st.builds(double, place, count),
        st.builds(cut, place),
        st.builds(insert, place, garbage | noise),
        st.just(lambda d: b""),
        st.just(lambda d: d + d),
    )


@given(frames(), st.binary(max_size=30))
def test_a_frame_comes_back_after_any_garbage(frame: Frame, garbage: bytes) -> None:
    sent = encode(frame)
    assert sent[0] == sent[-1] == FLAG and FLAG not in sent[1:-1]
    decoder = Decoder()
    assert list(decoder.feed(garbage + sent))[-1:] == [frame]
    assert list(decoder.feed(sent[:-1])) == []
    assert list(decoder.feed(sent[-1:])) == [frame]


def test_the_bytes_of_a_frame() -> None:
    """Those of docs/serial-link.md."""
    frame = Frame(7, Opcode.WRITE_REGISTERS, 1, 3, struct.pack("<I", 1))
    assert encode(frame).hex(" ") == "7e 07 03 01 00 03 00 00 00 01 00 00 00 59 42 5e 4f 7e"


@given(frames(), st.data())
def test_up_to_three_flipped_bits_are_found(frame: Frame, data: st.DataObject) -> None:
    body = bytes(next(iter([encode(frame)]))[1:-1]).replace(b"\x7d\x5e", b"\x7e")
    body = body.replace(b"\x7d\x5d", b"\x7d")
    assert decode(body) == frame
    places = data.draw(st.sets(st.integers(0, 8 * len(body) - 1), min_size=1, max_size=3))
    wrong = bytearray(body)
    for place in places:
        wrong[place // 8] ^= 1 << place % 8
    assert decode(bytes(wrong)) is None


def test_endless_garbage_takes_no_memory() -> None:
    decoder = Decoder()
    assert list(decoder.feed(bytes([FLAG]) + bytes(100_000))) == []
    assert len(decoder._body) < 4 * MAX_WORDS + 20
    good = Frame(1, 2, 3, 4)
    assert list(decoder.feed(encode(good))) == [good]
    assert decoder.damaged == 1


@pytest.mark.parametrize(
    "frame", [Frame(256, 0), Frame(0, 0, 1 << 16), Frame(0, 0, 0, -1), Frame(0, 0, payload=b"abc")]
)
def test_what_does_not_fit_a_frame(frame: Frame) -> None:
    with pytest.raises(ValueError, match="does not fit a frame"):
        encode(frame)


def test_commands() -> None:
    board = SoftwareBoard(TINY, 8192)
    link = linked(Line(board))
    assert link.board == Board(TINY.hash, 80_000_000, 8192)
    link.write_registers(Register.ARENA, 256, 512, 7)
    assert link.read_registers(Register.ARENA, 3) == (256, 512, 7)
    data = bytes(n * n % 251 for n in range(5000))
    board.memory[:] = b"\xee" * 8192
    link.write(1001, data)
    assert link.read(1001, 5000) == data
    assert bytes(board.memory[1000:1001] + board.memory[6001:6003]) == b"\xee" * 3
    for address, size in ((1001, 1), (1002, 5), (1004, 0), (1003, 2)):
        assert link.read(address, size) == data[address - 1001 :][:size]
    link.write(5, b"")
    link.write(8190, b"ab")
    link.write(0, b"x")
    assert bytes(board.memory[:2] + board.memory[8189:]) == b"x\xee\xeeab"
    link.reset()
    assert (board.resets, link.repeated) == (1, 0)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["write", "read", "register", "run"]), st.integers(0, 60)), max_size=8
)


def expect(link: Link, board: SoftwareBoard, operations: list[tuple[str, int]]) -> None:
    """Do them, and compare with what they should do."""
    memory, registers, runs = bytearray(board.memory), {}, 0
    for number, (name, at) in enumerate(operations):
        if name == "write":
            data = bytes((number + n) % 256 for n in range(at))
            link.write(at, data)
            memory[at : at + len(data)] = data
        elif name == "read":
            assert link.read(at, 30) == bytes(memory[at : at + 30])
        elif name == "register":
            link.write_registers(Register.COUNT, at)
            registers[Register.COUNT] = at
        else:
            link.write_registers(Register.CONTROL, 1)
            runs += 1
            link.reset()
            registers[Register.COUNT] = 0
        assert link.read_registers(Register.COUNT)[0] == registers.get(Register.COUNT, 0)
        assert board.runs == runs
    assert board.memory == memory


@settings(deadline=None)
@given(OPERATIONS, st.lists(st.just(bytes) | faults(), max_size=TRIES - 1), st.data())
def test_few_faults_change_nothing(
    operations: list[tuple[str, int]], wrong: list[Fault], data: st.DataObject
) -> None:
    """As many as a command has tries, less one, and late answers: all is as without them."""
    board = SoftwareBoard(TINY, 256)
    board.hangs = True
    delays = data.draw(st.lists(st.floats(0, 1), max_size=3))
    expect(linked(Line(board, wrong, delays)), board, operations)


@settings(deadline=None)
@given(st.lists(faults(), max_size=60), st.binary(min_size=1, max_size=40))
def test_many_faults_end_in_an_error_or_in_nothing(wrong: list[Fault], data: bytes) -> None:
    """A write is done or not, never by half and nowhere else; then the link goes on."""
    board = SoftwareBoard(TINY, 256)
    line = Line(board)
    link = linked(line)
    line.faults = iter(wrong)
    data += bytes(-len(data) % 4)
    try:
        link.write(16, data)
        assert board.memory[16:][: len(data)] == data
    except DeviceError as error:
        assert "asked 6 times" in str(error)
    assert len(board.done) <= 1
    assert not any(board.memory[:16]) and not any(board.memory[16 + len(data) :])
    assert board.memory[16:][: len(data)] in (data, bytes(len(data)))
    line.faults = iter(())
    link.write(0, b"1234")
    assert link.read(0, 4) == b"1234"


def test_a_late_answer_counts() -> None:
    """Later than a command is waited for the first time: repeated, done once."""
    board = SoftwareBoard(TINY)
    line = Line(board, delays=[0, 0.7])
    link = linked(line)
    link.write(0, b"1234")
    assert link.repeated == 1 and len(board.done) == 1
    assert link.read(0, 4) == b"1234"


def test_a_new_host_need_not_know_the_last_one() -> None:
    board = SoftwareBoard(TINY)
    for number in range(3):
        link = linked(Line(board))
        link.write(0, bytes([number] * 4))
        assert link.read(0, 4) == bytes([number] * 4)


def fails(match: str, line: Line, ask: Callable[[Link], object] = id, **more: object) -> float:
    """The seconds after which making the link fails, or ``ask``."""
    with pytest.raises(DeviceError, match=match):
        ask(linked(line, **more))
    return line.now


def test_what_is_wrong_is_said() -> None:
    board = SoftwareBoard(TINY, 1024)
    silent = Line(board, [lambda d: b""] * 100)
    seconds = fails("the board was asked 6 times and sent nothing", silent)
    assert silent.sent == 6 and 0.25 * (1 + 2 + 4 + 8 + 8 + 8) < seconds < 8
    quick = Line(board, [lambda d: b""] * 100)
    fails("asked 2 times", quick, patience=Patience(0.01, 2))
    assert quick.sent == 2
    noisy = Line(board, [lambda d: b"\x00\x80" * 20] * 100)
    fails("240 bytes that are no frame; check that both sides have", noisy)
    other = Line(board, [lambda d: encode(Frame(9, 9))] * 100)
    fails("6 frames, none of which answers", other)
    fails("version 9 of the link, this release", Line(SoftwareBoard(TINY, 64, 9)))
    board.registers[0] = 5
    fails(r"no machine of ours .*\(identity 00000005", Line(board))


def test_what_is_refused_is_said() -> None:
    board = SoftwareBoard(SMALL, 1024)
    line = Line(board)
    fails("refused to read memory: words 256 to 256 are beyond", line, lambda k: k.read(1024, 4))
    fails("refused to write registers: words 32", line, lambda k: k.write_registers(32, 1))
    board.hangs = True
    link = linked(line)
    link.write_registers(Register.CONTROL, 1)
    with pytest.raises(DeviceError, match="write memory: its memory is in use by a run"):
        link.write(0, b"1234")
    link.reset()
    link.write(0, b"1234")
    unknown = Frame(0, 0x22, 0, 0)
    (answer,) = Decoder().feed(board.receive(encode(unknown)))
    assert answer.address == Status.UNKNOWN
