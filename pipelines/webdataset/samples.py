"""Groups the members of a shard into samples, as the WebDataset convention says; what does not fit is a reject.

Convention: members whose path is the same up to the first dot of the basename, one after the other, are one sample.
Source: webdataset 1.0, `tariterators.base_plus_ext` and `group_by_keys`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from pipelines.webdataset.tar import ByteStream, Member, TarError, read_members
from schemas.configs import Captions, Embed
from schemas.errors import InputError
from schemas.layout import shard_stem
from schemas.rejects import Reject
from schemas.samples import VIDEO_SUFFIXES, VISUAL_SUFFIXES, Sample
from schemas.stores import open_stream

MAX_TEXT_BYTES = 1 << 20
"""Longest caption or metadata member read; a larger one counts as a caption error."""

MAX_KEY_BYTES = 4096
"""Longest key: the longest path a Linux file system takes (PATH_MAX)."""

_COMPRESSION = {"gz": "gzip", "tgz": "gzip", "bz2": "bz2", "xz": "xz", "zst": "zstd"}
_META = re.compile(r"__[^/]*__($|/)")  # webdataset's own bookkeeping members


@dataclass(slots=True)
class ReadCounts:
    """What was met in a shard; filled while it is read.

    Attributes:
      members: of the tar, of any kind.
      samples, rejects: as yielded.
      ignored_members: folders, links, dot files, names without a suffix.
      caption_errors: caption or metadata members that could not be read.
    """

    members: int = 0
    samples: int = 0
    rejects: int = 0
    ignored_members: int = 0
    caption_errors: int = 0


def split_name(name: str) -> tuple[str, str] | None:
    """A member's key and suffix, or None when it belongs to no sample.

    >>> split_name("a/b.c/Cat.Seg.PNG")
    ('a/b.c/Cat', 'seg.png')
    >>> split_name("a/.DS_Store") is None
    True
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    if not stem or not dot or not suffix or _META.match(name):
        return None
    return folder + slash + stem, suffix.lower()


def read_samples(
    source: str | ByteStream,
    *,
    shard: str,
    captions: Captions,
    key_scope: Literal["dataset", "shard"],
    embed: Embed,
    counts: ReadCounts | None = None,
) -> Iterator[Sample | Reject]:
    """Samples and rejects of one shard in file order; memory holds one sample.

    Every sample that begins in the shard comes out once, as one or the other, with its own `position`.
    A shard that breaks gives what comes before the break and one reject of position -1.

    Args:
      source: URL (decompressed by suffix: .gz .tgz .bz2 .xz .zst), or an open, decompressed stream.
      shard: file name of the shard, for the samples' `shard`.
      captions: where captions are.
      key_scope: "shard" puts "<shard stem>/" before every key.
      embed: its byte limits decide which members are too large to read.
      counts: filled while reading, when given.

    Raises:
      InputError: the shard cannot be opened.
    """
    tally = counts if counts is not None else ReadCounts()
    if not isinstance(source, str):
        yield from _Grouping(shard, captions, key_scope, embed, tally).run(source)
        return
    compression = _COMPRESSION.get(PurePosixPath(source.split("?")[0]).suffix[1:].lower())
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(open_stream(source, compression=compression))
        except FileNotFoundError as error:
            raise InputError(f"{source}: no such shard") from error
        except ValueError as error:  # unknown protocol, or a compression whose library is missing
            raise InputError(f"{source}: cannot be opened: {error}") from error
        yield from _Grouping(shard, captions, key_scope, embed, tally).run(stream)


@dataclass(slots=True)
class _Group:
    """Members of one key met so far.

    Attributes:
      visuals: (suffix, member), best first.
      texts: suffix -> caption or metadata member.
      offset: where the group begins in the tar.
    """

    key: str
    visuals: list[tuple[str, Member]] = field(default_factory=list)
    texts: dict[str, Member] = field(default_factory=dict)
    offset: int = 0


class _Grouping:
    """The state of one pass over a shard."""

    def __init__(
        self, shard: str, captions: Captions, key_scope: Literal["dataset", "shard"], embed: Embed, counts: ReadCounts
    ) -> None:
        self.shard = shard
        self.captions = captions
        self.prefix = f"{shard_stem(shard)}/" if key_scope == "shard" else ""
        self.embed = embed
        self.counts = counts
        self.position = 0
        self.seen: set[str] = set()

    def run(self, stream: ByteStream) -> Iterator[Sample | Reject]:
        group: _Group | None = None
        try:
            for member in read_members(stream, wanted_bytes=self._wanted_bytes):
                self.counts.members += 1
                named = split_name(member.name) if member.is_file else None
                if named is None:
                    self.counts.ignored_members += 1
                    continue
                key, suffix = named
                if group is None or key != group.key:
                    if group is not None:
                        yield from self._finish(group)
                    group = _Group(key, offset=member.offset)
                self._add(group, suffix, member)
        except TarError as error:
            # What lies whole before the break is used; a group without its picture is what the reject stands for.
            if group is not None and group.visuals:
                yield from self._finish(group)
                group = None
            yield self._broken(error, group)
            return
        if group is not None:
            yield from self._finish(group)

    def _wanted_bytes(self, name: str) -> int:
        named = split_name(name)
        if named is None:
            return -1
        suffix = named[1]
        if _is_visual(suffix):
            return self._visual_limit(suffix)
        return MAX_TEXT_BYTES if self._is_text(suffix) else -1

    def _visual_limit(self, suffix: str) -> int:
        video = suffix.rpartition(".")[2] in VIDEO_SUFFIXES
        return self.embed.max_video_bytes if video else self.embed.max_image_bytes

    def _is_text(self, suffix: str) -> bool:
        return suffix == "json" or suffix in self.captions.members

    def _add(self, group: _Group, suffix: str, member: Member) -> None:
        if _is_visual(suffix):
            group.visuals.append((suffix, member))
            group.visuals.sort(key=lambda pair: _rank(pair[0]))  # stable: file order within a rank
            # Only the picture that counts keeps its bytes, however many share the key.
            group.visuals[1:] = [(other, replace(extra, data=None)) for other, extra in group.visuals[1:]]
        elif self._is_text(suffix):
            if suffix in group.texts:
                self.counts.caption_errors += 1  # the first one counts
            else:
                group.texts[suffix] = member

    def _finish(self, group: _Group) -> Iterator[Sample | Reject]:
        """The sample of a complete group, and a reject for each further picture it holds."""
        key = self.prefix + _printable(group.key)
        if group.key in self.seen:
            message = f"key {key!r} was met before in this shard; members of a sample must follow one another"
            yield self._reject(key, group.offset, 0, "SplitKey", message)
            return
        self.seen.add(group.key)
        if len(key.encode()) > MAX_KEY_BYTES:
            message = f"a key of {len(key.encode())} bytes; the limit is {MAX_KEY_BYTES}"
            yield self._reject(key, group.offset, 0, "KeyTooLong", message)
            return
        if not group.visuals:
            kinds = ", ".join(sorted(VISUAL_SUFFIXES))
            message = f"no picture or video among the members of {key!r}; expected one of {kinds}"
            yield self._reject(key, group.offset, 0, "NoVisualMember", message)
            return
        suffix, chosen = group.visuals[0]
        yield self._sample(key, suffix, chosen, group)
        for other, member in group.visuals[1:]:
            if _rank(other) == _rank(suffix):
                message = (
                    f"{_printable(member.name)!r} is a second picture of key {key!r} (a key ends at the first dot)"
                )
                yield self._reject(key, member.offset, member.size, "SecondVisualMember", message)

    def _sample(self, key: str, suffix: str, member: Member, group: _Group) -> Sample | Reject:
        if member.data is None:
            message = f"{_printable(member.name)!r} has {member.size} bytes; the limit is {self._visual_limit(suffix)}"
            return self._reject(key, member.offset, member.size, "TooManyBytes", message)
        texts, metadata = self._captions(group)
        sample = Sample(
            key=key,
            shard=self.shard,
            position=self.position,
            suffix=suffix.rpartition(".")[2],
            data=member.data,
            offset=member.offset,
            size=member.size,
            captions=texts,
            metadata=metadata,
        )
        self.position += 1
        self.counts.samples += 1
        return sample

    def _captions(self, group: _Group) -> tuple[tuple[str, ...], str]:
        """Captions in the order of the config, a text two members share once; metadata as written."""
        found: list[str] = []
        metadata = ""
        for suffix in dict.fromkeys((*self.captions.members, "json")):
            member = group.texts.get(suffix)
            if member is None:
                continue
            try:
                text = _decode_text(member)
                if suffix != "json":
                    found += _new([text.strip()], found)
                    continue
                value = _parse_json(text)
                metadata = text
                if "json" in self.captions.members:
                    found += _new(caption_texts(value, self.captions.fields), found)
            except ValueError:
                self.counts.caption_errors += 1
        return tuple(found), metadata

    def _reject(self, key: str, offset: int, size: int, error: str, message: str) -> Reject:
        reject = Reject(key, self.shard, self.position, offset, size, "read", error, message)
        self.position += 1
        self.counts.rejects += 1
        return reject

    def _broken(self, error: TarError, group: _Group | None) -> Reject:
        self.counts.rejects += 1
        key = self.prefix + _printable(group.key) if group is not None else ""
        return Reject(key, self.shard, -1, error.offset, 0, "read", type(error).__name__, f"{self.shard}: {error}")


def _is_visual(suffix: str) -> bool:
    return suffix.rpartition(".")[2] in VISUAL_SUFFIXES


def _rank(suffix: str) -> tuple[bool, bool]:
    """Which of several pictures is the sample: `jpg` before `seg.png`, a video before its thumbnail."""
    return "." in suffix, suffix.rpartition(".")[2] not in VIDEO_SUFFIXES


def _printable(name: str) -> str:
    """A name that UTF-8 can carry: bytes that are not UTF-8 become backslash escapes, so names stay distinct."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _decode_text(member: Member) -> str:
    if member.data is None:
        raise ValueError("larger than a caption may be")
    return member.data.decode("utf-8-sig")


def _parse_json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("expected an object")  # noqa: TRY004 - one kind of error for all that is wrong with a text
    return value


def caption_texts(value: dict[str, Any], fields: tuple[str, ...]) -> list[str]:
    """The captions in a JSON member.

    Raises:
      ValueError: a field holds something other than strings, a list of strings, or null.

    >>> caption_texts({"caption": "a cat", "captions": ["two cats "], "id": 3}, ("captions", "caption"))
    ['two cats', 'a cat']
    """
    texts: list[str] = []
    for name in fields:
        held = value.get(name)
        if held is None:
            continue
        items = held if isinstance(held, list) else [held]
        if not all(isinstance(item, str) for item in items):
            raise ValueError(f"{name}: expected a string or a list of strings")
        # JSON can spell lone surrogates, which neither UTF-8 nor Parquet can hold.
        texts += _new([item.encode("utf-8", "replace").decode("utf-8").strip() for item in items], texts)
    return texts


def _new(texts: list[str], known: list[str]) -> list[str]:
    """What is said here for the first time: `txt` and `json` often hold the same caption. Empty texts say nothing."""
    return [text for text in texts if text and text not in known]
