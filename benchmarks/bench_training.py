"""What training in two steps, and OPQ's rotation from fewer points, cost and save against FAISS's own training.

    python -m benchmarks.bench_training                            200,000 x 256, 4,096 lists: about eight minutes
    python -m benchmarks.bench_training --rows 50000 --lists 1024  two minutes

Both sides train on the same vectors (see `vectors`) and hold all of them. Lists: whole vectors in them, recall@10 on
texts against exhaustive search by the share of items looked at. Rotation: mean squared distance of vectors it was not
trained on to what PQ keeps of them.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.synthetic import save, surroundings
from benchmarks.vectors import PART_ROWS, Clustered
from pipelines.index.exact import exact_search
from pipelines.index.parts import Block
from pipelines.index.proposal import empty_index
from pipelines.index.training import quantization_error, train
from pipelines.index.truth import recall_of_each

K = 10
TEXTS = 2000
NPROBE = (1, 4, 16, 64)
SIDES = ("FAISS", "ours")


def trained(key: str, items: np.ndarray, side: str) -> tuple[Any, float]:
    """An index trained by one side, and the seconds it took."""
    index = empty_index(key, items.shape[1])
    started = time.perf_counter()
    if side == "ours":
        train(index, items, key=key, seed=0)
    else:
        index.train(items)
    return index, round(time.perf_counter() - started, 1)


def of_lists(items: np.ndarray, texts: np.ndarray, lists: int) -> dict[str, Any]:
    """Seconds, and recall and share looked at by nprobe, of either side."""
    import faiss

    key, ids = f"IVF{lists},Flat", np.arange(len(items))
    scores, exact = exact_search([Block(ids, items)], texts, 4 * K + 1)
    found: dict[str, Any] = {}
    for side in SIDES:
        index, seconds = trained(key, items, side)
        index.add(items)
        points = {}
        for nprobe in NPROBE:
            faiss.cvar.indexIVF_stats.reset()
            near = index.search(texts, K, params=faiss.SearchParametersIVF(nprobe=nprobe))[1]
            looked_at = faiss.cvar.indexIVF_stats.ndis / len(texts) / len(items)
            points[nprobe] = {
                "recall": round(float(recall_of_each(near, scores, exact, K).mean()), 4),
                "looked_at": round(looked_at, 5),
            }
        found[side] = {"seconds": seconds, "points": points}
    return found


def of_rotation(items: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    """Seconds, and the error on vectors not trained on, of either side."""
    key, found = "OPQ64_320,IVF1,PQ64", {}
    for side in SIDES:
        index, seconds = trained(key, items, side)
        found[side] = {"seconds": seconds, "error": quantization_error(index, others)}
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--lists", type=int, default=4096)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    source = Clustered()
    parts = -(-given.rows // PART_ROWS)
    items = np.concatenate([source.pictures(number, PART_ROWS) for number in range(parts)])[: given.rows]
    lists = of_lists(items, source.texts(TEXTS), given.lists)
    rotation = of_rotation(items, source.pictures(10**6, 10_000))
    shown = Table("training", "seconds", *(f"nprobe {nprobe}" for nprobe in NPROBE), "error")
    for side, one in lists.items():
        points = [f"{at['recall']:.4f} ({at['looked_at']:.2%})" for at in one["points"].values()]
        shown.add_row(f"{given.lists} lists, {side}", f"{one['seconds']:g}", *points)
    for side, one in rotation.items():
        shown.add_row(f"OPQ64_320,PQ64, {side}", f"{one['seconds']:g}", *[""] * len(NPROBE), f"{one['error']:.4f}")
    result = {"rows": len(items), "lists": lists, "rotation": rotation, "surroundings": surroundings()}
    save(result, given.json)
    Console(width=130).print(shown)


if __name__ == "__main__":
    main()
