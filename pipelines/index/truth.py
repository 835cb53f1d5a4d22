"""What an index should find: queries of the log, and items, with their exact neighbours; recall against them.

Letters: Q queries, W neighbours kept, k of recall@k, d_m width of level m.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from pipelines.index.exact import exact_search, sort_hits
from pipelines.index.parts import Parts, ids_of, sample
from pipelines.index.plan import LEVEL, IndexPlan
from pipelines.index.search import local_file
from schemas.commits import publish_file, staging
from schemas.configs import Index
from schemas.digests import digest_bytes, digest_value
from schemas.errors import InputError
from schemas.layout import Layout
from schemas.parquet import read_table, vectors
from schemas.stores import open_store

LEAST_FIT_QUERIES = 50
"""With fewer, all queries are used for tuning and nothing is held out."""

MOST_QUERIES = 2000
"""Of each split; recall 0.95 is then known to about +-0.01, and exhaustive search stays cheap."""

IMAGE_QUERIES = 1000

ENOUGH_OF_A_PAST = 0.9
"""Of the queries wanted, so many whose neighbours were found before are taken for all."""

RECIPE = 1
"""Of what is remembered."""

KNOWN = "truth.npz"

WIDE = 4
"""Exact neighbours kept, in multiples of k: an item tied with the k-th counts as found too."""

TIE = 1e-6
"""Scores this close are a tie: float32 rounding in the index must not count as a miss."""


class Truth(NamedTuple):
    """Queries with their exact neighbours.

    Attributes:
      queries: float32 (Q, d_m), one array a level searched through, coarse to fine.
      scores, ids: of the neighbours, float32 and int64 (Q, W).
      own: ids to leave out, int64 (Q,); None for texts.
    """

    queries: tuple[np.ndarray, ...]
    scores: np.ndarray
    ids: np.ndarray
    own: np.ndarray | None = None


class Truths(NamedTuple):
    """What an index is tuned on and measured with.

    Attributes:
      tuned_on: "all" where the log has fewer than 50 fit queries and nothing is held out.
      tune, test, image: texts to tune on, texts held out, and items as queries; neighbours at the finest level.
      coarse: the tuning texts with their neighbours at the level that is indexed; None where that alone is searched.
    """

    tuned_on: Literal["fit", "all"]
    tune: Truth
    test: Truth
    image: Truth
    coarse: Truth | None


class Known(NamedTuple):
    """Neighbours that were found: what an index keeps of them for the one that is made of it.

    Attributes:
      names: of the texts (`_name`).
      scores, ids: of their neighbours at the finest level, (texts, W).
      coarse_scores, coarse_ids: the same at the level that is indexed, and the same arrays where that is the finest.
      own: ids of the items taken as queries.
      items: their vectors, one array a level.
      item_scores, item_ids: of their neighbours, themselves left out.
    """

    names: np.ndarray
    scores: np.ndarray
    ids: np.ndarray
    coarse_scores: np.ndarray
    coarse_ids: np.ndarray
    own: np.ndarray
    items: tuple[np.ndarray, ...]
    item_scores: np.ndarray
    item_ids: np.ndarray


def find_truths(plan: IndexPlan, config: Index, *, layout: Layout, most: int = MOST_QUERIES) -> tuple[Truths, Known]:
    """Queries and their neighbours by exhaustive search, remembered under the root by all they depend on.

    Which queries are taken depends on each alone, so that a log that grew by little keeps most of them. Where an index
    is made of one that is there, what that one keeps is carried over: only new items are searched, and queries without
    a past are left out as long as nine in ten have one.

    Args:
      most: queries of each kind.

    Returns:
      What to tune on, and what to keep of it.
    """
    folder = plan.queries_url.rsplit("/", 1)[0]
    table = read_table(f"{folder}/{plan.queries.data.name}", ["split", *dict.fromkeys(plan.levels)])
    texts = [vectors(table.column(level)) for level in plan.levels]
    names = np.array([_name(vector, config.seed) for vector in texts[-1]])
    split = np.array(table.column("split").to_pylist())
    tuned_on: Literal["fit", "all"] = "fit" if (split == "fit").sum() >= LEAST_FIT_QUERIES else "all"
    fit = _first(np.arange(len(split)) if tuned_on == "all" else np.flatnonzero(split == "fit"), names, most)
    test = _first(np.flatnonzero(split == "test") if tuned_on == "fit" else fit[:0], names, most)
    known = _carried(plan, config, texts, names)
    if known is not None:
        fit, test = (_with_a_past(rows, names, known) for rows in (fit, test))
        known = _complete(known, plan, config, texts, names, rows=np.concatenate([fit, test]), items=0)
    else:
        memo = layout.truth(_depends_on(plan, config, most))
        known = _recalled(memo)
        if known is None:
            count = min(IMAGE_QUERIES, most) if plan.rows > 1 else 0
            known = _complete(None, plan, config, texts, names, rows=np.concatenate([fit, test]), items=count)
            with staging() as local:
                write_known(known, local / KNOWN)
                publish_file(local / KNOWN, memo)
    at = {name: place for place, name in enumerate(known.names.tolist())}
    tune, held = (np.array([at[name] for name in names[rows].tolist()], np.int64) for rows in (fit, test))
    coarse = None
    if len(plan.levels) > 1:
        coarse = Truth((texts[0][fit],), known.coarse_scores[tune], known.coarse_ids[tune])
    truths = Truths(
        tuned_on,
        Truth(tuple(level[fit] for level in texts), known.scores[tune], known.ids[tune]),
        Truth(tuple(level[test] for level in texts), known.scores[held], known.ids[held]),
        Truth(known.items, known.item_scores, known.item_ids, known.own),
        coarse,
    )
    return truths, known


def _complete(
    known: Known | None,
    plan: IndexPlan,
    config: Index,
    texts: Sequence[np.ndarray],
    names: np.ndarray,
    *,
    rows: np.ndarray,
    items: int,
) -> Known:
    """The neighbours of some texts and items: those known, and the others by a walk over all parts."""
    wide = WIDE * config.recall_k + 1
    past = set() if known is None else set(known.names.tolist())
    new = np.array([row for row in rows.tolist() if names[row] not in past], np.int64)
    if known is not None and not len(new):
        return known
    own, drawn = np.empty(0, np.int64), [level[:0] for level in texts]
    if known is None:
        blocks = [sample(plan.part_urls, items, seed=config.seed + 1, level=level) for level in plan.levels]
        own, drawn = blocks[-1].ids, [block.vectors for block in blocks]
    asked = np.concatenate([texts[-1][new], drawn[-1]])
    scores, ids = exact_search(Parts(plan.part_urls, LEVEL), asked, wide)
    n = len(new)
    coarse_scores, coarse_ids = scores[:n], ids[:n]
    if plan.levels[0] != LEVEL:
        coarse_scores, coarse_ids = exact_search(Parts(plan.part_urls, plan.levels[0]), texts[0][new], wide)
    found = Known(
        names[new],
        scores[:n],
        ids[:n],
        coarse_scores,
        coarse_ids,
        own,
        tuple(drawn),
        *without_self(scores[n:], ids[n:], own),
    )
    if known is None:
        return found
    narrow = min(known.scores.shape[1], found.scores.shape[1])
    four = ("scores", "ids", "coarse_scores", "coarse_ids")
    both = {name: np.concatenate([getattr(one, name)[:, :narrow] for one in (known, found)]) for name in four}
    return known._replace(names=np.concatenate([known.names, found.names]), **both)


def _carried(plan: IndexPlan, config: Index, texts: Sequence[np.ndarray], names: np.ndarray) -> Known | None:
    """What the base keeps, without items that are gone, with those that came; None if too few are left."""
    change = plan.change
    if change is None:
        return None
    entry = change.built.truth
    known = read_known(local_file(entry.url(change.base.manifest), entry))
    at = {name: row for row, name in enumerate(names.tolist())}
    asked = [place for place, name in enumerate(known.names.tolist()) if name in at]
    rows = np.array([at[known.names[place]] for place in asked], np.int64)
    gone = ids_of(change.removed)
    stay = ~np.isin(known.own, gone)
    items = tuple(level[stay] for level in known.items)
    wide, least = WIDE * config.recall_k + 1, 2 * config.recall_k
    n = len(rows)
    come = exact_search(Parts(change.added, LEVEL), np.concatenate([texts[-1][rows], items[-1]]), wide)
    carried = [
        _merged((known.scores[asked], known.ids[asked]), (come[0][:n], come[1][:n]), gone),
        _merged((known.item_scores[stay], known.item_ids[stay]), (come[0][n:], come[1][n:]), gone),
    ]
    if plan.levels[0] == LEVEL:
        carried.append(carried[0])
    else:
        coarse = exact_search(Parts(change.added, plan.levels[0]), texts[0][rows], wide)
        carried.append(_merged((known.coarse_scores[asked], known.coarse_ids[asked]), coarse, gone))
    if min(scores.shape[1] for scores, _ in carried) < least or not n or not len(items[-1]):
        return None
    (scores, ids), (item_scores, item_ids), (coarse_scores, coarse_ids) = carried
    narrow = min(scores.shape[1], coarse_scores.shape[1])
    return Known(
        known.names[asked],
        scores[:, :narrow],
        ids[:, :narrow],
        coarse_scores[:, :narrow],
        coarse_ids[:, :narrow],
        known.own[stay],
        items,
        item_scores,
        item_ids,
    )


Hits = tuple[np.ndarray, np.ndarray]
"""Scores float32 and ids int64 (Q, W), best first."""


def _merged(before: Hits, come: Hits, gone: np.ndarray) -> Hits:
    """The best of both, as far down as it is sure that nothing is missing."""
    deleted = np.isin(before[1], gone)
    sure = before[1].shape[1] - int(deleted.sum(axis=1).max(initial=0))
    scores = np.concatenate([np.where(deleted, -np.inf, before[0]), come[0]], axis=1)
    scores, ids = sort_hits(scores, np.concatenate([before[1], come[1]], axis=1))
    return scores[:, :sure].astype(np.float32), ids[:, :sure]


def _name(vector: np.ndarray, seed: int) -> str:
    """Of a query: by its vector, so that one name is one search; and the order in which queries are taken."""
    return digest_bytes(seed.to_bytes(8, "little", signed=True) + vector.tobytes())[:24]


def _first(rows: np.ndarray, names: np.ndarray, most: int) -> np.ndarray:
    """The rows with the smallest names, rising: as fair as a draw, and the same from night to night."""
    return np.sort(rows[np.argsort(names[rows], kind="stable")[:most]])


def _with_a_past(rows: np.ndarray, names: np.ndarray, known: Known) -> np.ndarray:
    """The rows whose neighbours are known, if those are nearly all."""
    past = rows[np.isin(names[rows], known.names)]
    return past if len(past) >= ENOUGH_OF_A_PAST * len(rows) else rows


def _depends_on(plan: IndexPlan, config: Index, most: int) -> str:
    """Digest of all that the neighbours of a plan without a base depend on."""
    return digest_value(
        {
            "embeddings": plan.embeddings_digest,
            "queries": plan.queries.data.sha256,
            "levels": list(dict.fromkeys(plan.levels)),
            "k": config.recall_k,
            "seed": config.seed,
            "most": most,
            "recipe": RECIPE,
        }
    )


def _recalled(url: str) -> Known | None:
    """What is remembered; nothing where the memo is missing or damaged."""
    fs, path = open_store(url)
    try:
        with fs.open(path, "rb") as stream:
            return _read(stream)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def read_known(path: Path) -> Known:
    """What an index keeps.

    Raises:
      InputError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as stream:
            return _read(stream)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: {error}; remove the index's manifest to have it made again") from error


def _read(stream: Any) -> Known:
    with np.load(stream) as arrays:
        items = tuple(arrays[f"items_{number}"] for number in range(int(arrays["levels"])))
        return Known(items=items, **{name: arrays[name] for name in Known._fields if name != "items"})


def write_known(known: Known, path: Path) -> None:
    """As `read_known` reads it; equal arrays, equal bytes."""
    arrays = {name: value for name, value in known._asdict().items() if name != "items"}
    arrays |= {f"items_{number}": level for number, level in enumerate(known.items)}
    np.savez(path, levels=np.array(len(known.items)), **arrays)


def recall_of_each(ids: np.ndarray, exact_scores: np.ndarray, exact_ids: np.ndarray, k: int) -> np.ndarray:
    """Recall@k of every query: the share of its k exact neighbours that were found.

    An item that ties with the k-th exact neighbour is as good as it, so identical pictures do not count as misses.

    Args:
      ids: int64 (Q, K), found, K <= k; -1 for none.
      exact_scores, exact_ids: (Q, W), W >= k (all items when there are fewer), falling.

    Returns:
      float64 (Q,).
    """
    k = min(k, exact_ids.shape[1])
    good = exact_scores >= exact_scores[:, k - 1 : k] - TIE
    hits = ((ids[:, :, None] == exact_ids[:, None, :]) & good[:, None, :]).any(axis=2).sum(axis=1)
    return np.asarray(np.minimum(hits, k) / k)


def places_of(ids: np.ndarray, exact_scores: np.ndarray, exact_ids: np.ndarray, k: int) -> np.ndarray:
    """At which place each exact neighbour was found, from 0; int64 (Q, W).

    Args:
      ids: int64 (Q, K), found, best first; -1 for none.
      exact_scores, exact_ids: as for `recall_of_each`; neighbours that are not among the k best, or tied with the last
        of them, count as not found.

    Returns:
      K for those that were not found.
    """
    places = np.full(exact_ids.shape, ids.shape[1], np.int64)
    for row, (found, wanted) in enumerate(zip(ids, exact_ids, strict=True)):
        order = np.argsort(found, kind="stable")
        at = np.searchsorted(found[order], wanted)
        there = at < len(found)
        there[there] = found[order[at[there]]] == wanted[there]
        places[row, there] = order[at[there]]
    last = min(k, exact_ids.shape[1])
    places[exact_scores < exact_scores[:, last - 1 : last] - TIE] = ids.shape[1]
    return places


def recall_within(places: np.ndarray, depth: int, k: int) -> np.ndarray:
    """Recall@k of every query, float64 (Q,), where the first `depth` found are put in their exact order.

    Args:
      places: of `places_of`, of `depth` or more found.
    """
    k = min(k, places.shape[1])
    return np.asarray(np.minimum((places < depth).sum(axis=1), k) / max(1, k))


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of per-query recalls, with Wilson's 95 % score interval over queries.

    A recall lies between 0 and 1, so its variance is at most that of a yes or no with the same mean: the
    interval is never too narrow. Unlike a bootstrap it does not shrink to a point when all queries succeed.
    Source: Wilson, JASA 22 (1927) 209-212.
    """
    n, mean, z = len(values), float(np.mean(values)), 1.959964
    middle = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z * float(np.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    return round(mean, 6), round(max(0.0, middle - half), 6), round(min(1.0, middle + half), 6)


def without_self(scores: np.ndarray, ids: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row without its own id, one column narrower; where it is absent the last column goes."""
    if not ids.size:
        return scores, ids
    drop = np.where((ids == own[:, None]).any(axis=1), (ids == own[:, None]).argmax(axis=1), ids.shape[1] - 1)
    keep = np.arange(ids.shape[1])[None, :] != drop[:, None]
    shape = (len(ids), ids.shape[1] - 1)
    return scores[keep].reshape(shape), ids[keep].reshape(shape)
