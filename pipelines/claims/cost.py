"""What coarse to fine saves against a flat search at the finest level, counted and timed.

One query at a time, on the threads there are, float32, 10 answers. Items and queries are random directions: the time
does not depend on what the vectors mean; what the search finds is measured elsewhere, on real ones.

numpy    both sides exhaustive, the same function over the finest level and over the coarsest one: like with like
faiss    both sides a `Flat` index searched as the pipeline searches it; long shortlists cost a selection of their own
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.claims.findings import Finding
from pipelines.index.coarse_to_fine import CoarseToFine, default_shortlist, multiply_adds
from pipelines.index.exact import nearest_rows, pair_scores
from pipelines.index.levels import IDS, read_levels, through

FIXED = (500, 100)
ANSWERS = 10
ROUNDS = 3
BUDGET_S = 6.0  # of one side of one row, begun rounds aside


def unit(generator: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Random directions, float32 (rows, width)."""
    values = generator.standard_normal((rows, width), dtype=np.float32)
    out: np.ndarray = values / np.linalg.norm(values, axis=1, keepdims=True)
    return out


def milliseconds(sides: Sequence[Callable[[int], object]], queries: int) -> list[float]:
    """Milliseconds of a query of each side: the best of some rounds' medians, the sides in turn."""
    found: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS):
        for side, medians in zip(sides, found, strict=True):
            times, begun = [], time.perf_counter()
            for number in range(queries):
                started = time.perf_counter()
                side(number)
                times.append(time.perf_counter() - started)
                if time.perf_counter() - begun > BUDGET_S / ROUNDS:
                    break
            medians.append(1000 * statistics.median(times))
    return [min(medians) for medians in found]


def measure(dims: Sequence[int], items: int, queries: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each schedule of shortlists: multiply-adds and milliseconds a query of both sides, and their ratios."""
    generator = np.random.default_rng(items)
    names = [folder / f"{width}.npy" for width in dims[1:]]
    ids = np.sort(generator.choice(1 << 60, items, replace=False))
    np.save(folder / IDS, ids)
    for path, width in zip(names, dims[1:], strict=True):
        np.save(path, unit(generator, items, width))
    levels = read_levels([(folder / IDS, names)])  # mapped, as they are served
    coarse, finest = unit(generator, items, dims[0]), np.load(names[-1], mmap_mode="r")[:]
    texts = [unit(generator, queries, width) for width in dims]

    def flat(number: int) -> np.ndarray:
        query = texts[-1][number]
        best = nearest_rows(finest, query, ANSWERS)
        found: np.ndarray = ids[best[np.lexsort((best, -pair_scores(query, finest, best)))]]
        return found

    def first(some: np.ndarray, count: int) -> np.ndarray:
        return np.stack([ids[nearest_rows(coarse, query, count)] for query in some])

    index, whole = faiss_flat(ids, coarse), faiss_flat(ids, finest)
    rows = []
    for schedule, shortlist in (("a tenth", default_shortlist(items, len(dims))), ("500", FIXED[: len(dims) - 1])):
        sides: list[Callable[[int], object]] = [
            flat,
            asking(CoarseToFine(first, levels, shortlist), texts),
            lambda number: whole.search(texts[-1][number : number + 1], ANSWERS),
            asking(through(index, levels, shortlist), texts),
        ]
        macs = multiply_adds(items, dims, shortlist), multiply_adds(items, dims[-1:], ())
        rows.append(row_of(dims, items, schedule, shortlist, macs, milliseconds(sides, queries)))
    return rows


def asking(search: CoarseToFine, texts: Sequence[np.ndarray]) -> Callable[[int], object]:
    """Asks one of the texts."""
    return lambda number: search.search([level[number : number + 1] for level in texts], ANSWERS)


def row_of(
    dims: Sequence[int],
    items: int,
    schedule: str,
    shortlist: Sequence[int],
    macs: tuple[int, int],
    times: Sequence[float],
) -> dict[str, Any]:
    """A row of the result; `macs` of coarse to fine and flat, `times` flat and coarse to fine, numpy then FAISS."""
    return {
        "dims": list(dims),
        "items": items,
        "schedule": schedule,
        "shortlist": list(shortlist),
        "macs": macs[0],
        "flat_macs": macs[1],
        "mac_ratio": macs[1] / macs[0],
        **{f"{name}_ms": value for name, value in zip(("flat", "coarse_to_fine"), times, strict=False)},
        **{f"faiss_{name}_ms": value for name, value in zip(("flat", "coarse_to_fine"), times[2:], strict=True)},
        "ratio": times[0] / times[1],
        "faiss_ratio": times[2] / times[3],
    }


def faiss_flat(ids: np.ndarray, vectors: np.ndarray) -> Any:
    """An exhaustive index as the index stage builds it, opened for searching."""
    import faiss

    from pipelines.index.search import Searcher

    index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(vectors, ids)
    return Searcher(index, {})


def hv2(dims: Sequence[int], sizes: Sequence[int], folder: Path) -> Finding:
    """Milliseconds of flat search over those of coarse to fine, numpy on both sides, at several sizes."""
    rows = [measure(dims, items, 100, folder)[0] for items in sizes]
    ratios = [row["ratio"] for row in rows]
    said = ", ".join(f"{row['ratio']:.2f} times at {row['items']:,}" for row in rows)
    said += f" (multiply-adds {rows[0]['mac_ratio']:.1f} to {rows[-1]['mac_ratio']:.1f})"
    holds = ratios == sorted(ratios) and ratios[-1] > 1
    note = f"widths {', '.join(map(str, dims))}, K_1 = N / 10, random directions; no seed, but a machine of its own"
    return Finding("HV2", "holds" if holds else "does not hold", said, note=note, facts={"rows": rows})
