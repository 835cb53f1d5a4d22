"""The query log (tsv, jsonl or Parquet) and the table of distinct queries made of it."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from schemas.digests import digest_bytes
from schemas.errors import InputError
from schemas.parquet import read_table
from schemas.stores import open_stream


@dataclass(frozen=True, slots=True)
class Query:
    """One distinct query.

    Attributes:
      query_id: of its first appearance in the log.
      text: as first typed, trimmed.
      count: how often it was asked, summed over all spellings that normalise to the same text.
      clicked: keys of items people chose, in order of first click.
      split: "fit" (index tuning and beta may see it) or "test" (only measured).
    """

    query_id: str
    text: str
    count: int
    clicked: tuple[str, ...]
    split: str


def table_schema(dims: Mapping[str, int], *, encoder: str) -> pa.Schema:
    """Arrow schema of the encoded query table: float32 vectors, there are few of them."""
    columns = [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("clicked", pa.list_(pa.string()), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
    levels = [
        pa.field(name, pa.list_(pa.field("element", pa.float32(), nullable=False), width), nullable=False)
        for name, width in dims.items()
    ]
    return pa.schema(columns + levels, metadata={"fastslow.encoder": encoder})


def normalise(text: str) -> str:
    r"""What makes two queries one: Unicode NFKC, lower case, single spaces.

    >>> normalise("  A  Red\u00a0Circle ")
    'a red circle'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def split_of(text: str, fit_fraction: float) -> str:
    """The split of a query: a function of its normalised text, so that it never changes side between nights."""
    position = int(digest_bytes(normalise(text).encode("utf-8", "replace"))[:8], 16) / 2**32
    return "fit" if position < fit_fraction else "test"


def distinct(rows: Iterable[Mapping[str, object]], *, source: str, fit_fraction: float) -> list[Query]:
    """Merges log rows into distinct queries, in order of first appearance; an id used for two texts is replaced.

    Args:
      rows: mappings with `text`, optional `query_id`, `count`, `clicked`.
      source: name of the log, for messages.

    Raises:
      InputError: a row without text, with a count that is no positive whole number, or an id with white space in it.
    """
    merged: dict[str, Query] = {}
    owner: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        text = row.get("text")
        if not isinstance(text, str) or not normalise(text):
            raise InputError(f"{source}, row {number}: expected a query text, got {text!r}")
        count = _count(row.get("count"), f"{source}, row {number}")
        clicked = _clicked(row.get("clicked"), f"{source}, row {number}")
        same = normalise(text)
        query_id = str(row.get("query_id") or f"q{digest_bytes(same.encode('utf-8', 'replace'))[:12]}")
        if any(c.isspace() for c in query_id):
            raise InputError(
                f"{source}, row {number}: query id {query_id!r} holds white space, which a TREC run cannot carry"
            )
        known = merged.get(same)
        if known is None:
            if owner.setdefault(query_id, same) != same:
                query_id = f"q{digest_bytes(same.encode('utf-8', 'replace'))[:12]}"
            merged[same] = Query(query_id, text.strip(), count, clicked, split_of(text, fit_fraction))
        else:
            keys = tuple(dict.fromkeys(known.clicked + clicked))
            merged[same] = Query(known.query_id, known.text, known.count + count, keys, known.split)
    return list(merged.values())


def _count(value: object, where: str) -> int:
    if value is None or value == "":
        return 1
    try:
        count = int(str(value))
    except ValueError:
        count = 0
    if count < 1:
        raise InputError(f"{where}: count: expected a whole number of 1 or more, got {value!r}")
    return count


def _clicked(value: object, where: str) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return tuple(key for key in value.split("|") if key)
    if isinstance(value, list) and all(isinstance(key, str) for key in value):
        return tuple(value)
    raise InputError(f"{where}: clicked: expected keys (a list, or text separated by '|'), got {value!r}")


def read_rows(url: str) -> Iterator[dict[str, object]]:
    """The rows of a query log, by its suffix.

    `.tsv`: with a header naming `text` (and `query_id`, `count`, `timestamp`, `clicked`), or without one as
    `query_id<TAB>text`. `.jsonl`: one object a line. `.parquet`: the same names as columns.

    Raises:
      InputError: not found, another suffix, or a row that cannot be read.
    """
    if url.endswith(".parquet"):
        yield from read_table(url).to_pylist()
        return
    if not url.endswith((".tsv", ".jsonl")):
        raise InputError(f"{url}: query log: expected .tsv, .jsonl or .parquet")
    try:
        with open_stream(url) as stream:
            text = stream.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"{url}: query log not found; set queries.log in the dataset config or pass --queries"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: query log is not UTF-8 ({error})") from error
    yield from (_jsonl(text, url) if url.endswith(".jsonl") else _tsv(text, url))


def _jsonl(text: str, url: str) -> Iterator[dict[str, object]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{url}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{url}, line {number}: expected a JSON object, got {type(row).__name__}")
        yield row


def _tsv(text: str, url: str) -> Iterator[dict[str, object]]:
    rows = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    names: list[str] | None = None
    for number, cells in enumerate(rows, start=1):
        if not cells:
            continue
        if names is None:
            if "text" in cells:
                names = cells
                continue
            names = ["query_id", "text"]
        if len(cells) != len(names):
            raise InputError(
                f"{url}, line {number}: expected {len(names)} columns ({', '.join(names)}), got {len(cells)}"
            )
        yield dict(zip(names, cells, strict=True))
