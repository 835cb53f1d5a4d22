"""Candidates, pair scores and rankings as Arrow tables, and their TREC exports."""

from collections.abc import Iterable

import pyarrow as pa


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


CANDIDATES = pa.schema(
    [
        _required("query_id", pa.string()),
        _required("item_id", pa.int64()),
        _required("rank", pa.int32()),  # from 1, by fast score
        _required("fast_score", pa.float32()),
    ]
)

ANSWERS = pa.schema([*CANDIDATES, _required("key", pa.string())])
"""Of a batch search."""

SCORES = pa.schema(
    [
        _required("query_id", pa.string()),
        _required("item_id", pa.int64()),
        _required("slow_score", pa.float32()),
    ]
)

RANKINGS = pa.schema(
    [
        _required("query_id", pa.string()),
        _required("item_id", pa.int64()),
        _required("key", pa.string()),
        _required("rank", pa.int32()),  # from 1, without gaps
        _required("fast_rank", pa.int32()),
        _required("fast_score", pa.float32()),
        pa.field("slow_score", pa.float32()),  # null when the picture could not be scored
        _required("score", pa.float32()),  # slow + beta * fast; strictly what `rank` sorts by
    ]
)

JUDGEMENTS = pa.schema(
    [
        _required("query_id", pa.string()),
        _required("item_id", pa.int64()),
        _required("key", pa.string()),
        _required("modality", pa.string()),
    ]
)
"""What is known to be relevant, one row a pair, of every judged query whether it has candidates or not."""


def trec_run(rows: Iterable[tuple[str, str, int]], *, depth: int, tag: str) -> str:
    """A TREC run: `query Q0 document rank score tag`, one line a result.

    trec_eval sorts by score and breaks ties by name, so the score written is `depth + 1 - rank`: strictly
    falling, and the order is ours.

    Args:
      rows: (query id, key, rank from 1).
    """
    return "".join(f"{query} Q0 {trec_word(key)} {rank} {depth + 1 - rank} {tag}\n" for query, key, rank in rows)


def trec_qrels(rows: Iterable[tuple[str, str]]) -> str:
    """TREC judgements: `query 0 document 1`, one line a relevant pair."""
    return "".join(f"{query} 0 {trec_word(key)} 1\n" for query, key in rows)


def trec_word(key: str) -> str:
    """A key as one word: white space would break the columns, so it is percent-encoded."""
    return "".join(f"%{ord(c):02X}" if c.isspace() or c == "%" else c for c in key) if _unsafe(key) else key


def _unsafe(key: str) -> bool:
    return "%" in key or any(c.isspace() for c in key)
