"""Walks the headers of a tar from a forward-only stream; a cut or corrupt place is an error, never a silent end.

The standard library's reader stops without a word at a bad header, at a missing end mark and at whatever
follows one; that loses samples unseen. So the walk is ours and only the parsing of one header is the library's.

Source: POSIX.1-2001 pax interchange format; GNU tar manual, "Basic Tar Format".
"""

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from schemas.errors import SampleError

BLOCK = tarfile.BLOCKSIZE
ZERO_BLOCK = bytes(BLOCK)
SKIP_BYTES = 1 << 20
EXTENSION_LIMIT_BYTES = 1 << 20
"""Largest long name or pax record accepted; real ones are below a few kB, a hostile one could fill the memory."""

_REGULAR = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_BODILESS = frozenset(set(tarfile.SUPPORTED_TYPES) - _REGULAR - {tarfile.GNUTYPE_SPARSE})
"""Links, folders and devices: their size field says nothing about what follows (tarfile and GNU tar agree)."""


class TarError(SampleError):
    """The shard cannot be read further.

    Attributes:
      offset: where the trouble begins, in bytes of the decompressed tar.
      last: name of the last member that came out whole, "" when there is none.
    """

    def __init__(self, problem: str, *, offset: int, last: str) -> None:
        after = f"after {last!r}" if last else "before any member was complete"
        super().__init__(f"{problem} at byte {offset}, {after}; what comes before it is used. Fetch the shard again")
        self.offset = offset
        self.last = last


class ByteStream(Protocol):
    """All that is asked of a stream: reading forward."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar.

    Attributes:
      name: as stored; bytes that are not UTF-8 are surrogate escapes.
      offset: of the content, in bytes of the decompressed tar.
      size: of the content in bytes.
      is_file: a plain file; folders, links, devices and sparse files are not.
      data: the content, or None where it was passed over unread (not a plain file, or larger than wanted).
    """

    name: str
    offset: int
    size: int
    is_file: bool
    data: bytes | None


def read_members(stream: ByteStream, *, wanted_bytes: Callable[[str], int]) -> Iterator[Member]:
    """Members in file order, in memory one at a time.

    Args:
      stream: a tar, already decompressed.
      wanted_bytes: member name -> largest content to read; a larger one is passed over, its `data` is None.

    Raises:
      TarError: the stream ends early, a header is damaged, or something follows the end mark; everything
        before that place has been yielded.
    """
    yield from _Walk(stream).members(wanted_bytes)


class _Walk:
    """The state of one walk: where we are and what was last complete."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.offset = 0
        self.last = ""

    def members(self, wanted_bytes: Callable[[str], int]) -> Iterator[Member]:
        """See `read_members`."""
        extended: dict[str, str] = {}  # long names and pax records for the next member
        defaults: dict[str, str] = {}  # global pax records, for all that follow
        while (block := self._header_block()) != ZERO_BLOCK:
            header = self._parse(block)
            if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
                records = self._pax_records(self._content(self._extension_size(header)))
                if header.type == tarfile.XGLTYPE:
                    defaults.update(records)
                else:
                    extended = records | extended  # as tarfile: of two extensions the outer one, met first, counts
            elif header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                content = self._content(self._extension_size(header))
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    name = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
                    extended = {"path": name} | extended
            else:
                yield from self._member(header, block, defaults | extended, wanted_bytes)
                extended = {}
        self._end(has_extension=bool(extended))

    def _member(
        self, header: tarfile.TarInfo, block: bytes, pax: dict[str, str], wanted_bytes: Callable[[str], int]
    ) -> Iterator[Member]:
        """The member itself, then its padding: content that is whole comes out even when the padding is cut."""
        if header.type == tarfile.GNUTYPE_SPARSE:
            more = block[482] != 0
            while more:  # the map of a sparse file goes on in blocks of its own
                more = self._exactly(BLOCK, "a sparse map is cut")[504] != 0
        sparse = header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in pax)
        is_file = header.type in _REGULAR and not sparse
        size = 0 if header.type in _BODILESS else self._size(header, pax)
        name = pax.get("path", header.name).rstrip("/") or header.name
        offset = self.offset
        if is_file and size <= wanted_bytes(name):
            data = self._exactly(size, f"member {name!r} of {size} bytes is cut")
            yield Member(name, offset, size, True, data)
        else:
            self._skip(size, f"member {name!r} of {size} bytes is cut")
            yield Member(name, offset, size, is_file, None)
        self.last = name
        self._exactly(-size % BLOCK, "the padding of a member is cut")

    def _header_block(self) -> bytes:
        block = self._read(BLOCK)
        if len(block) == BLOCK:
            return block
        if not block:
            problem = "the file is empty" if self.offset == 0 else "the archive ends without its end mark"
        else:
            problem = "a header is cut"
        raise TarError(problem, offset=self.offset - len(block), last=self.last)

    def _parse(self, block: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise TarError(f"a damaged header ({error})", offset=self.offset - BLOCK, last=self.last) from error

    def _size(self, header: tarfile.TarInfo, pax: dict[str, str]) -> int:
        text = pax.get("size", "")
        size = header.size
        if text:
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                raise TarError(f"a pax size of {text[:40]!r}", offset=self.offset, last=self.last)
            size = int(text)
        if size < 0:
            raise TarError(f"a member of {size} bytes", offset=self.offset - BLOCK, last=self.last)
        return size

    def _extension_size(self, header: tarfile.TarInfo) -> int:
        if not 0 <= header.size <= EXTENSION_LIMIT_BYTES:
            problem = f"an extended header of {header.size} bytes (limit {EXTENSION_LIMIT_BYTES})"
            raise TarError(problem, offset=self.offset - BLOCK, last=self.last)
        return header.size

    def _content(self, size: int) -> bytes:
        content = self._exactly(size, "an extended header is cut")
        self._exactly(-size % BLOCK, "an extended header is cut")
        return content

    def _pax_records(self, content: bytes) -> dict[str, str]:
        """Records of the form "length key=value newline", the length counting the whole record."""
        records: dict[str, str] = {}
        position = 0
        while position < len(content) and content[position]:
            digits, _, _ = content[position : position + 20].partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            record = content[position : position + length]
            key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
            if len(record) != length or not record.endswith(b"\n") or not equals:
                raise TarError("a damaged pax header", offset=self.offset, last=self.last)
            records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
            position += length
        return records

    def _end(self, *, has_extension: bool) -> None:
        """Checks that two zero blocks end the archive and that nothing but zeros follows."""
        mark = self.offset - BLOCK
        if has_extension:
            raise TarError("an extended header without its member", offset=mark, last=self.last)
        if self._read(BLOCK) != ZERO_BLOCK:
            raise TarError("half an end mark (one zero block)", offset=mark, last=self.last)
        while chunk := self._read(SKIP_BYTES):
            if chunk.count(0) != len(chunk):
                raise TarError(
                    "more data after the end mark (joined tars? use `tar --concatenate`)",
                    offset=self.offset - len(chunk),
                    last=self.last,
                )

    def _skip(self, size: int, problem: str) -> None:
        while size:
            step = min(size, SKIP_BYTES)
            self._exactly(step, problem)
            size -= step

    def _exactly(self, size: int, problem: str) -> bytes:
        if not size:
            return b""
        data = self._read(size)
        if len(data) != size:
            raise TarError(problem, offset=self.offset, last=self.last)
        return data

    def _read(self, size: int) -> bytes:
        """`size` bytes, fewer at the end only; damage in the compression is damage of the tar.

        Errors of the network or the disk are not caught: they say nothing about the shard, and a retry may help.
        """
        pieces: list[bytes] = []
        missing = size
        while missing:
            try:
                piece = self.stream.read(missing)
            except Exception as error:
                if not _is_damaged_compression(error):
                    raise
                raise TarError(f"damaged compression ({error})", offset=self.offset, last=self.last) from error
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
            self.offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _is_damaged_compression(error: Exception) -> bool:
    """Whether a decompressor complains about its input: gzip, bz2, xz and zstandard each have their own way."""
    if isinstance(error, EOFError | zlib.error | lzma.LZMAError):
        return True
    if type(error).__name__ in ("BadGzipFile", "ZstdError"):
        return True
    return type(error) is OSError and error.errno is None  # bz2: OSError("Invalid data stream")
