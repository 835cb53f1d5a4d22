"""The five systems side by side on the demo: quality, cost of a query, bytes, parameters, training.

    python -m benchmarks.bench_systems                       all five, some minutes
    python -m benchmarks.bench_systems --systems loopitr     one
    python -m benchmarks.bench_systems --json benchmarks/results/systems.json --markdown docs/systems.md

Each is the whole job (`fastslow reindex demo --encoder demo-<name>`) under a root of its own, then 50 of its queries
asked one at a time of the published generation, with and without reranking, after one that loads the models.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.synthetic import save, surroundings

SYSTEMS = ("fast-slow", "vldeformer", "cooperative", "hivlp", "loopitr")
QUERIES = 50


def run(system: str, root: Path) -> dict[str, Any]:
    """A row of the table."""
    from encoders.registry import resolve
    from pipelines.jobs import layout_of, resolve_encoder
    from pipelines.search import open_generation, read_generation
    from schemas.manifests import IndexManifest, QueriesManifest, RankingsManifest
    from schemas.parquet import read_table

    name = f"demo-{system}"
    command = [sys.executable, "-m", "pipelines.cli", "--quiet", "reindex", "demo", "--json", "--encoder", name]
    done = subprocess.run(
        [*command, "--encoder", name, "--root", str(root)], capture_output=True, text=True, check=True
    )
    summary = json.loads(done.stdout)
    layout = layout_of("demo", str(root))
    generation = read_generation(layout)
    index = IndexManifest.read(f"{root}/{generation.index}")
    rankings = RankingsManifest.read(f"{root}/{generation.rankings}")
    queries = QueriesManifest.read(f"{root}/{generation.queries}")
    folder = generation.queries.rpartition("/")[0]
    texts = read_table(f"{root}/{folder}/{queries.data.name}", ["text"])["text"].to_pylist()[: QUERIES + 1]
    snapshot = open_generation(layout)
    beside = index.beside_bytes if index.levels else 0
    records = [json.loads(path.read_text()) for path in resolve(resolve_encoder(name)).glob("training*.json")]
    figures = summary["metrics"]["text_to_image"]
    return {
        "system": system,
        "fast": {k: figures["fast"][f"R@{k}"] for k in (1, 5, 10)},
        "reranked": {k: figures["reranked"][f"R@{k}"] for k in (1, 5, 10)},
        "gain": figures["gain"]["R@1"],
        "beta": rankings.beta,
        "pairs_a_query": rankings.pair_evaluations / rankings.queries,
        "fast_ms": milliseconds(snapshot, texts, rerank=False),
        "reranked_ms": milliseconds(snapshot, texts, rerank=True),
        "index_bytes_an_item": (index.size_bytes + beside) / index.rows,
        "index": f"{index.key} {index.parameters}".strip(),
        "parameters": records[0]["parameters"],
        "training_minutes": sum(record["seconds"] for record in records) / 60,
        "steps": sum(record["steps"] for record in records),
        "seconds": summary["seconds"],
    }


def milliseconds(snapshot: Any, texts: list[str], *, rerank: bool) -> float:
    """Median of one query; the first loads what it needs and does not count."""
    times = []
    for text in texts:
        started = time.perf_counter()
        snapshot.answer(text, 10, rerank=rerank)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[1:])


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "system": lambda row: row["system"],
    "fast R@1 / 5 / 10": lambda row: percent(row["fast"]),
    "reranked R@1 / 5 / 10": lambda row: percent(row["reranked"]),
    "gain": lambda row: f"{100 * row['gain']['value']:+.1f}",
    "pairs a query": lambda row: f"{row['pairs_a_query']:.0f}",
    "ms fast": lambda row: f"{row['fast_ms']:.1f}",
    "ms reranked": lambda row: f"{row['reranked_ms']:.0f}",
    "bytes an item": lambda row: f"{row['index_bytes_an_item']:.0f}",
    "parameters": lambda row: f"{row['parameters'] / 1e6:.1f} M",
    "training steps": lambda row: f"{row['steps']:,}",
    "minutes": lambda row: f"{row['training_minutes']:.0f}",
}
"""Heading -> cell."""


def percent(recalls: dict[int, float]) -> str:
    """R@k of all k."""
    return " / ".join(f"{100 * value:.1f}" for value in recalls.values())


def markdown(rows: list[dict[str, Any]], around: dict[str, Any]) -> str:
    """The page of the docs."""
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(cell(row) for cell in COLUMNS.values()) for row in rows]
    table = "\n".join(f"| {line} |" for line in lines)
    machine = ", ".join(f"{name} {value}" for name, value in around.items())
    return f"""# The five systems on the demo

Made by `python -m benchmarks.bench_systems --markdown docs/systems.md`; do not edit. Each row is
`fastslow reindex demo --encoder demo-<system>`: 2,000 pictures and 240 clips, text to image, in percent, beta fitted on
other queries than those measured. Milliseconds are the median of {QUERIES} queries, one at a time, of the published
generation; a reranked query decodes and encodes its candidates. Bytes are those of the index with what lies beside it.
Models were trained on one thread of a 2-core CPU that did other things too; docs/training.md says how.

{table}

{machine}
"""


def main() -> None:
    """Measures, prints a table, writes files when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    rows = []
    for system in given.systems:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run(system, Path(folder)))
    table = Table(title="demo: 2,000 images and 240 clips; R@k text to image in percent")
    for heading in COLUMNS:
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for row in rows:
        table.add_row(*(cell(row) for cell in COLUMNS.values()))
    Console(width=160).print(table)
    around = surroundings()
    save({"systems": rows, "surroundings": around}, given.json)
    if given.markdown:
        given.markdown.write_text(markdown(rows, around))


if __name__ == "__main__":
    main()
