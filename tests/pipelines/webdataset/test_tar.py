"""The header walk against the standard library's reader, and what it does where that one falls silent."""

import bz2
import gzip
import io
import lzma
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.webdataset.tar import TarError, read_members

KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CONTTYPE)


def pack(members, format=tarfile.PAX_FORMAT, kinds=None):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, encoding="utf-8") as tar:
        for index, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.type = kinds[index] if kinds else tarfile.REGTYPE
            info.linkname = "elsewhere" if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def walk(data, limit=1 << 30):
    """(members, error or None)."""
    members = []
    try:
        for member in read_members(io.BytesIO(data), wanted_bytes=lambda name: limit):
            members.append(member)
    except TarError as error:
        return members, error
    return members, None


class Trickle(io.BytesIO):
    """A stream that gives a few bytes at a time, as sockets do."""

    def read(self, size=-1, /):
        return super().read(min(size, 100))


names = st.text(st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), min_size=1, max_size=60)
paths = st.lists(names, min_size=1, max_size=6).map("/".join)
contents = st.binary(max_size=1500)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(paths, contents, st.sampled_from(KINDS)), max_size=6),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_offsets_and_bytes_equal_the_standard_librarys(entries, format):
    data = pack([entry[:2] for entry in entries], format, [entry[2] for entry in entries])
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as oracle:
        expected = [
            (info.name, info.offset_data, info.size, data[info.offset_data : info.offset_data + info.size])
            for info in oracle
            if info.isreg()
        ]

    members, error = walk(data)

    assert error is None
    assert [(m.name, m.offset, m.size, m.data) for m in members if m.is_file] == expected
    assert len(members) == len(entries)
    assert all(m.data is None for m in members if not m.is_file)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_cut_gives_the_whole_members_before_it_and_one_error(format):
    entries = [
        ("a/ü.jpg", b"x" * 700),
        ("b" * (90 if format == tarfile.USTAR_FORMAT else 150), b""),
        ("c.txt", b"y" * 512),
    ]
    data = pack(entries, format)
    whole, error = walk(data)
    assert error is None
    end_of_mark = whole[-1].offset + 512 + 1024

    for cut in range(end_of_mark):
        members, error = walk(data[:cut])
        assert members == [m for m in whole if m.offset + m.size <= cut and m.offset <= cut], cut
        assert error is not None, cut
        assert error.offset <= cut, cut
        assert error.last == ("" if not members else members[-1].name) or len(members) > 0, cut
    for cut in range(end_of_mark, len(data) + 1, 512):
        assert walk(data[:cut]) == (whole, None)


@pytest.mark.parametrize(
    "pack_stream", [(gzip.compress, gzip.open), (bz2.compress, bz2.open), (lzma.compress, lzma.open)]
)
def test_a_cut_in_the_compression_is_an_error_too(pack_stream):
    compress, reader = pack_stream
    packed = compress(pack([("a.jpg", bytes(range(256)) * 8), ("b.jpg", b"1")]))
    for cut in range(len(packed)):
        with pytest.raises(TarError):
            list(read_members(reader(io.BytesIO(packed[:cut])), wanted_bytes=lambda name: 1 << 20))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_raise_nothing_but_tar_errors(data):
    packed = bytearray(
        pack([("a.jpg", b"x" * 300), ("d" * 120 + ".jpg", b"y" * 700), ("c.txt", b"z")], tarfile.GNU_FORMAT)
    )
    for _ in range(data.draw(st.integers(1, 6))):
        packed[data.draw(st.integers(0, 5119))] = data.draw(st.integers(0, 255))
    members, error = walk(bytes(packed))
    assert error is not None or [m.size for m in members] == [300, 700, 1]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000))
def test_garbage_is_refused_at_its_beginning(data):
    members, error = walk(data + b"x")
    assert members == []
    assert error is not None


def test_a_damaged_header_in_the_middle_is_named_with_its_place():
    packed = bytearray(pack([("a.jpg", b"x" * 10), ("b.jpg", b"y"), ("c.jpg", b"z")]))
    packed[1024 + 3] ^= 0xFF  # the name in the second header: its checksum is wrong now

    members, error = walk(bytes(packed))

    assert [m.name for m in members] == ["a.jpg"]
    assert error.offset == 1024
    assert error.last == "a.jpg"
    with tarfile.open(fileobj=io.BytesIO(packed)) as silent:
        assert silent.getnames() == ["a.jpg"]  # why the walk is ours


def test_joined_tars_are_not_cut_in_silence():
    first, second = pack([("a.jpg", b"1")]), pack([("b.jpg", b"2")])
    members, error = walk(first + second)
    assert [m.name for m in members] == ["a.jpg"]
    assert "after the end mark" in str(error)


def test_an_empty_archive_is_fine_and_an_empty_file_is_not():
    assert walk(pack([])) == ([], None)
    assert "the file is empty" in str(walk(b"")[1])


def test_members_above_the_limit_are_passed_over_and_their_neighbours_read():
    data = pack([("a.jpg", b"1"), ("big.jpg", b"2" * 5000), ("c.jpg", b"3")])
    members, error = walk(data, limit=100)
    assert error is None
    assert [(m.name, m.size, m.data) for m in members] == [
        ("a.jpg", 1, b"1"),
        ("big.jpg", 5000, None),
        ("c.jpg", 1, b"3"),
    ]


def test_passing_over_takes_no_memory():
    class Endless:
        """One header of 8 GiB, then zeros; notes the largest read."""

        def __init__(self):
            info = tarfile.TarInfo("huge.mp4")
            info.size = 8 << 30  # needs base 256
            self.head = io.BytesIO(info.tobuf(tarfile.GNU_FORMAT))
            self.left = 64 << 20
            self.largest = 0

        def read(self, size, /):
            self.largest = max(self.largest, size)
            piece = self.head.read(size) or bytes(min(size, self.left))
            self.left -= len(piece)
            return piece

    stream = Endless()
    with pytest.raises(TarError, match="huge.mp4.*8589934592 bytes is cut"):
        list(read_members(stream, wanted_bytes=lambda name: 100))
    assert stream.largest <= 1 << 20


def test_sizes_in_base_256_and_in_pax_records_are_understood():
    gnu = tarfile.TarInfo("a.jpg")
    gnu.size = 3
    header = bytearray(gnu.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (3).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    pax = tarfile.TarInfo("b.jpg")
    pax.pax_headers = {"size": "5"}
    data = (
        bytes(header)
        + b"abc".ljust(512, b"\0")
        + pax.tobuf(tarfile.PAX_FORMAT)
        + b"fghij".ljust(512, b"\0")
        + bytes(1024)
    )

    members, error = walk(data)

    assert error is None
    assert [(m.name, m.data) for m in members] == [("a.jpg", b"abc"), ("b.jpg", b"fghij")]


@pytest.mark.parametrize(
    "record", [b"30 path=short\n", b"9999999999 path=x\n", b"x path=y\n", b"12 pathvalue\n", b"10 size=-1\n"]
)
def test_damaged_pax_records_are_errors(record):
    extension = tarfile.TarInfo("././@PaxHeader")
    extension.type, extension.size = tarfile.XHDTYPE, len(record)
    data = extension.tobuf() + record.ljust(512, b"\0") + pack([("a.jpg", b"1")])
    members, error = walk(data)
    assert members == []
    assert "pax" in str(error)


def test_an_enormous_long_name_is_refused_unread():
    extension = tarfile.TarInfo("././@LongLink")
    extension.type, extension.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    assert "extended header of 8589934592 bytes" in str(walk(extension.tobuf(tarfile.GNU_FORMAT))[1])


def test_an_extension_without_its_member_is_an_error():
    extension = tarfile.TarInfo("././@LongLink")
    extension.type, extension.size = tarfile.GNUTYPE_LONGNAME, 4
    data = extension.tobuf(tarfile.GNU_FORMAT) + b"name".ljust(512, b"\0") + bytes(1024)
    assert "without its member" in str(walk(data)[1])


def test_a_stream_that_gives_little_at_a_time_is_read_whole():
    data = pack([("a.jpg", b"x" * 5000), ("b.jpg", b"y")])
    assert list(read_members(Trickle(data), wanted_bytes=lambda name: 1 << 20)) == walk(data)[0]


def test_errors_of_the_disk_or_network_are_not_taken_for_damage():
    class Failing(io.BytesIO):
        def read(self, size=-1, /):
            raise ConnectionResetError(104, "connection reset")

    with pytest.raises(ConnectionResetError, match="reset"):
        list(read_members(Failing(), wanted_bytes=lambda name: 1))
