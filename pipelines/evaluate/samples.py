"""The queries a report shows, with pictures: by hash and not by hand, a few that got better, worse, and neither."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.evaluate.gallery import Gallery, open_gallery
from pipelines.evaluate.published import Published
from pipelines.evaluate.report_data import Result, SampleQuery, Verdict
from schemas.digests import digest_bytes
from schemas.errors import SampleError
from schemas.parquet import read_table

EACH = 3
"""Queries of every verdict."""

SHOWN = 5
"""Results shown of each ranking; the first relevant one is shown besides where it lies deeper."""


class Chosen(NamedTuple):
    """One chosen query: its row among those to choose from, and what reranking did to it."""

    row: int
    verdict: Verdict


def verdicts(fast: np.ndarray, final: np.ndarray) -> np.ndarray:
    """What reranking did to each query's first relevant item.

    Args:
      fast, final: its rank before and after, int64 (Q,); 0 where it is not among the candidates.

    Returns:
      "better", "worse" or "unchanged", str (Q,).
    """
    return np.where(
        final == fast, "unchanged", np.where((final > 0) & ((fast == 0) | (final < fast)), "better", "worse")
    )


def choose(names: Sequence[str], verdict: np.ndarray, *, video: np.ndarray, each: int = EACH) -> list[Chosen]:
    """The queries to show: of every verdict the first `each` by hash of their name.

    Where none of these asks for a video and another query of the verdict does, it takes the last place.

    Args:
      names: ids of the queries.
      verdict: str (Q,).
      video: whether the query asks for a video, bool (Q,).

    Returns:
      Better, worse, unchanged, changed; within each by hash.
    """
    order = np.array(sorted(range(len(names)), key=lambda row: digest_bytes(names[row].encode())), np.int64)
    chosen: list[Chosen] = []
    kinds: tuple[Verdict, ...] = ("better", "worse", "unchanged", "changed")
    for kind in kinds:
        mine = order[verdict[order] == kind]
        shown = mine[:each].tolist()
        moving = mine[video[mine]]
        if moving.size and not video[shown].any():
            shown[-1] = int(moving[0])
        chosen += [Chosen(row, kind) for row in shown]
    return chosen


class _Lists(NamedTuple):
    """Chosen queries' rankings, and what is known to be relevant."""

    rows: pa.Table
    relevant: set[tuple[str, int]]


def sample_queries(state: Published) -> tuple[tuple[SampleQuery, ...], tuple[str, ...]]:
    """The queries shown, and sentences about pictures that are missing.

    Raises:
      InputError, StaleError: a file of the generation is missing, damaged or does not belong to it.
    """
    from pipelines.evaluate.metrics import Judged, Results, first_ranks

    if state.rankings is None or state.generation.rankings is None:
        return (), ()
    folder = state.url(state.generation.rankings).rsplit("/", 1)[0]
    table = read_table(
        f"{state.url(state.generation.queries).rsplit('/', 1)[0]}/{state.queries.data.name}",
        ["query_id", "text", "count", "split"],
    )
    names = table.column("query_id").combine_chunks()
    known = read_table(f"{folder}/{state.rankings.judgements.name}")
    ranked = read_table(f"{folder}/{state.rankings.data.name}")
    query, item = _numbers(ranked, names), ranked.column("item_id").to_numpy()
    judged = Judged(_numbers(known, names), known.column("item_id").to_numpy())
    pool = np.unique(judged.query) if len(judged.query) else np.unique(query)
    if state.rankings.beta_source == "fit":  # the queries measured on, see pipelines/evaluate/job.py
        pool = pool[table.column("split").to_numpy()[pool] == "test"]
    fast_rank, final_rank = ranked.column("fast_rank").to_numpy(), ranked.column("rank").to_numpy()
    if len(judged.query):
        before = first_ranks(Results(query, item, fast_rank), judged, pool)
        after = first_ranks(Results(query, item, final_rank), judged, pool)
        verdict = verdicts(before, after)
        asks_video = np.isin(pool, judged.query[known.column("modality").to_numpy() == "video"])
    else:
        before = after = np.zeros(len(pool), np.int64)
        new_first = np.isin(pool, query[(fast_rank == 1) & (final_rank != 1)])
        verdict, asks_video = np.where(new_first, "changed", "unchanged"), np.zeros(len(pool), bool)
    chosen = choose(names.take(pa.array(pool)).to_pylist(), verdict, video=asks_video)
    mine = _Lists(
        ranked.filter(pa.array(np.isin(query, pool[[row for row, _ in chosen]]))),
        set(zip(known.column("query_id").to_pylist(), judged.item.tolist(), strict=True)),
    )
    found = [
        SampleQuery(
            text=text["text"],
            count=text["count"],
            judged=bool(len(judged.query)),
            verdict=kind,
            fast_rank=int(before[row]) or None,
            final_rank=int(after[row]) or None,
            fast=tuple(_results(mine, text["query_id"], final=False)),
            final=tuple(_results(mine, text["query_id"], final=True)) if state.rankings.scorer else (),
        )
        for (row, kind), text in zip(
            chosen, table.take(pa.array(pool[[row for row, _ in chosen]])).to_pylist(), strict=True
        )
    ]
    return _with_items(found, mine, state)


def _numbers(table: pa.Table, names: pa.Array) -> np.ndarray:
    """Row of each query in the query table, int64."""
    found = pc.index_in(table.column("query_id"), value_set=names)
    return np.asarray(found.to_numpy(zero_copy_only=False)).astype(np.int64)


def _results(lists: _Lists, query_id: str, *, final: bool) -> Iterable[Result]:
    """The first few of a ranking and the first relevant one; names only, items are filled in later."""
    rank = "rank" if final else "fast_rank"
    rows = lists.rows.filter(pc.field("query_id") == query_id).sort_by(rank).to_pylist()
    relevant = [(query_id, row["item_id"]) in lists.relevant for row in rows]
    first = relevant.index(True) if True in relevant else 0
    for number in dict.fromkeys((*range(min(SHOWN, len(rows))), *([first] if first >= SHOWN else []))):
        row = rows[number]
        yield Result(
            rank=row[rank],
            key=row["key"],
            modality="",
            captions=(),
            thumbnail=None,
            score=row["score"] if final else row["fast_score"],
            slow_score=row["slow_score"] if final else None,
            relevant=relevant[number],
            moved=row["fast_rank"] - row["rank"] if final else None,
        )


def _with_items(
    samples: Sequence[SampleQuery], lists: _Lists, state: Published
) -> tuple[tuple[SampleQuery, ...], tuple[str, ...]]:
    """The same queries with modality, captions and thumbnail of every result."""
    shown = {result.key for sample in samples for result in (*sample.fast, *sample.final)}
    ids = {row["key"]: row["item_id"] for row in lists.rows.to_pylist() if row["key"] in shown}
    gallery = open_gallery([state.url(name) for name in state.generation.embeddings])
    wanted = np.array(sorted(ids.values()), np.int64)
    rows = gallery.rows(wanted, ["key", "modality", "captions", "width", "height"]).to_pylist()
    thumbnails, notes = _thumbnails(gallery, wanted, rows, state)
    facts = {row["key"]: row for row in rows}

    def fill(result: Result) -> Result:
        row = facts[result.key]
        return replace(
            result, modality=row["modality"], captions=tuple(row["captions"]), thumbnail=thumbnails.get(result.key)
        )

    filled = tuple(
        replace(sample, fast=tuple(map(fill, sample.fast)), final=tuple(map(fill, sample.final))) for sample in samples
    )
    return filled, notes


def _thumbnails(
    gallery: Gallery, wanted: np.ndarray, rows: Sequence[dict[str, Any]], state: Published
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Key -> thumbnail, and a sentence when some could not be made."""
    from encoders.decoding import DecodeLimits
    from pipelines.evaluate.thumbnails import thumbnail

    limits = DecodeLimits.of(state.config.embed)
    found: dict[str, bytes] = {}
    why = ""
    for row, data in zip(rows, gallery.files(wanted, state.config.embed), strict=True):
        try:
            if isinstance(data, SampleError):
                raise data
            found[row["key"]] = thumbnail(data, row["modality"], (row["width"], row["height"]), limits=limits)
        except SampleError as error:
            why = why or str(error)
    missing = len(rows) - len(found)
    return found, (f"{missing} of {len(rows)} pictures could not be shown; the first: {why}",) if missing else ()
