"""The five systems side by side: quality, cost of an item, of a pair and of a query, bytes, parameters, training.

    python -m benchmarks.bench_systems                       all five on the demo, some minutes
    python -m benchmarks.bench_systems --systems loopitr     one
    python -m benchmarks.bench_systems --json benchmarks/results/systems.json --markdown docs/systems.md
    python -m benchmarks.bench_systems --photos SHARDS --checkpoints FOLDER --json benchmarks/results/photos.json

Each is the whole job (`fastslow reindex demo --encoder demo-<name>`) under a root of its own, then 50 of its queries
asked one at a time of the published generation, with and without reranking, after one that loads the models. With
--photos it is Flickr8k's test split instead, by those of the checkpoints `flickr8k-<name>` that are in the folder, and
by the two that configs/datasets/flickr8k.yaml puts together (`mixed`). With --systems, a file of --json keeps its rows
of the others; its surroundings are those of the last run. It is written after each system.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.synthetic import save, surroundings

SYSTEMS = ("fast-slow", "vldeformer", "cooperative", "hivlp", "loopitr")
MIXED = {"mixed": ("loopitr-lite", "fast-slow")}
"""Of --photos: whose vectors, whose slow side."""

QUERIES = 50
BATCH, DEPTH, ROUNDS = 32, 20, 5
"""Items encoded at once, candidates of a query, and how often each cost is measured; the median counts."""


@dataclass(frozen=True)
class Bench:
    """What the systems are run on.

    Attributes:
      dataset: name of its config.
      title: of the table.
      options: of `fastslow reindex`, beside the encoder.
      checkpoints: folder of `flickr8k-<system>`; None: those shipped with fastslow.
    """

    dataset: str
    title: str
    options: tuple[str, ...] = ()
    checkpoints: Path | None = None

    def models(self, system: str) -> tuple[str, str]:
        """Whose vectors and whose slow side a system has: one model, or two."""
        if self.checkpoints is None:
            return f"demo-{system}", f"demo-{system}"
        fast, slow = MIXED.get(system, (system, system))
        return str(self.checkpoints / f"flickr8k-{fast}"), str(self.checkpoints / f"flickr8k-{slow}")

    def lacks(self, system: str) -> list[str]:
        """Those of its models that are not there."""
        wanted = () if self.checkpoints is None else self.models(system)
        return [name for name in dict.fromkeys(wanted) if not Path(name, "training.json").is_file()]


DEMO = Bench("demo", "demo: 2,000 images and 240 clips; R@k text to image in percent")


def run(system: str, root: Path, bench: Bench = DEMO) -> dict[str, Any]:
    """A row of the table."""
    from encoders.registry import resolve
    from pipelines.jobs import layout_of, resolve_encoder
    from pipelines.search import open_generation, read_generation
    from schemas.manifests import IndexManifest, QueriesManifest, RankingsManifest
    from schemas.parquet import read_table

    fast, slow = bench.models(system)
    folders = [resolve(resolve_encoder(name)) for name in dict.fromkeys((fast, slow))]
    trained = [[json.loads(path.read_text()) for path in sorted(folder.glob("training*.json"))] for folder in folders]
    last = [json.loads((folder / "training.json").read_text()) for folder in folders]  # of several trainings
    command = [sys.executable, "-m", "pipelines.cli", "--quiet", "reindex", bench.dataset, "--json", "--encoder", fast]
    options = list(bench.options)
    if bench.checkpoints is not None:
        options += ["--scorer", slow]
        if fast == slow:  # of two, beta is that of the dataset's config
            options += ["--set", f"rerank.beta={last[0]['fusion_beta']}"]
    done = subprocess.run([*command, *options, "--root", str(root)], capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    layout = layout_of(bench.dataset, str(root))
    generation = read_generation(layout)
    index = IndexManifest.read(f"{root}/{generation.index}")
    rankings = RankingsManifest.read(f"{root}/{generation.rankings}")
    queries = QueriesManifest.read(f"{root}/{generation.queries}")
    asked = f"{root}/{generation.queries.rpartition('/')[0]}/{queries.data.name}"
    texts = read_table(asked, ["text"])["text"].to_pylist()[: QUERIES + 1]
    snapshot = open_generation(layout)
    beside = index.beside_bytes if index.levels else 0
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
        "vector_bytes_an_item": 2 * sum(snapshot.encoder.dims.values()),
        "index": f"{index.key} {index.parameters}".strip(),
        **unit_costs(snapshot.encoder, snapshot.scorer, texts[0]),
        "parameters": sum(record["parameters"] for record in last),
        "training_minutes": sum(record["seconds"] for records in trained for record in records) / 60,
        "steps": sum(record["steps"] for records in trained for record in records),
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


def unit_costs(encoder: Any, scorer: Any, text: str) -> dict[str, float]:
    """Milliseconds of an item's vectors, and of a pair on the slow side.

    Pictures are noise, decoded already; items come in batches, pairs as the candidates of one text.
    """
    import torch

    def median(work: Callable[[], object]) -> float:
        work()
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return 1000 * statistics.median(times)

    def noise(side: Any, count: int) -> torch.Tensor:
        shape = (count, 1, side.pixels.height, side.pixels.width, 3)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    pictures, cache = noise(encoder, BATCH), scorer.visual_cache(noise(scorer, DEPTH))
    return {
        "item_ms": median(lambda: encoder.encode_visual(pictures)) / BATCH,
        "pair_ms": median(lambda: scorer.score([text] * DEPTH, cache)) / DEPTH,
    }


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "system": lambda row: row["system"],
    "fast R@1 / 5 / 10": lambda row: percent(row["fast"]),
    "reranked R@1 / 5 / 10": lambda row: percent(row["reranked"]),
    "gain": lambda row: f"{100 * row['gain']['value']:+.1f}",
    "pairs a query": lambda row: f"{row['pairs_a_query']:.0f}",
    "ms fast": lambda row: f"{row['fast_ms']:.1f}",
    "ms reranked": lambda row: f"{row['reranked_ms']:.0f}",
    "bytes an item": lambda row: f"{row['index_bytes_an_item']:.0f}",
    "ms an item, a pair": lambda row: f"{row['item_ms']:.1f}, {row['pair_ms']:.2f}",
    "parameters": lambda row: f"{row['parameters'] / 1e6:.1f} M",
    "training steps": lambda row: f"{row['steps']:,}",
    "minutes": lambda row: f"{row['training_minutes']:.0f}",
}
"""Heading -> cell."""


def percent(recalls: dict[int, float]) -> str:
    """R@k of all k."""
    return " / ".join(f"{100 * value:.1f}" for value in recalls.values())


def grid(columns: Mapping[str, Callable[[dict[str, Any]], str]], rows: Sequence[dict[str, Any]]) -> str:
    """A table in Markdown: heading -> cell of a row."""
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cell(row) for cell in columns.values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def markdown(rows: list[dict[str, Any]], around: dict[str, Any]) -> str:
    """The page of the docs."""
    machine = ", ".join(f"{name} {value}" for name, value in around.items())
    return f"""# The five systems on the demo

Made by `python -m benchmarks.bench_systems --markdown docs/systems.md`; do not edit. Each row is
`fastslow reindex demo --encoder demo-<system>`: 2,000 pictures and 240 clips, text to image, in percent, beta fitted on
other queries than those measured. Milliseconds are the median of {QUERIES} queries, one at a time, of the published
generation; a reranked query decodes and encodes its candidates. Bytes are those of the index with what lies beside it.
Milliseconds of an item are those of its vectors in batches of {BATCH}, of a pair those of the slow side alone.
Models were trained on one thread of a 2-core CPU that did other things too; docs/training.md says how.

{grid(COLUMNS, rows)}

{machine}
"""


def kept(path: Path | None) -> dict[str, dict[str, Any]]:
    """The rows that a file has, by system; none where there is no file."""
    if path is None or not path.is_file():
        return {}
    return {row["system"]: row for row in json.loads(path.read_text(encoding="utf-8"))["systems"]}


def in_order(rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """As the systems are named above, whichever were run first."""
    return [rows[system] for system in (*SYSTEMS, *MIXED) if system in rows]


def main() -> None:
    """Measures, prints a table, writes files when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=(*SYSTEMS, *MIXED), help="all, unless told")
    parser.add_argument("--photos", type=Path, help="folder of Flickr8k's shards")
    parser.add_argument("--checkpoints", type=Path, help="folder of flickr8k-<system>, of --photos")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    if (given.photos is None) != (given.checkpoints is None) or (given.photos and given.markdown):
        parser.error("--photos and --checkpoints go together, without --markdown")
    if not given.photos and set(given.systems or ()) & set(MIXED):
        parser.error(f"{', '.join(MIXED)}: expected --photos beside it")
    bench = DEMO
    if given.photos:
        shards = ("--shards", f"{given.photos}/flickr8k-test-*.tar")
        bench = Bench("flickr8k", "Flickr8k: 1,000 photos of test; R@k text to image", shards, given.checkpoints)
    rows = kept(given.json) if given.systems else {}
    for system in given.systems or (*SYSTEMS, *(MIXED if given.photos else ())):
        if lacking := bench.lacks(system):
            print(f"{system}: left out, for {', '.join(lacking)} is not there", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows[system] = run(system, Path(folder), bench)
        save({"systems": in_order(rows), "surroundings": surroundings()}, given.json)
    table = Table(title=bench.title)
    for heading in COLUMNS:
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for row in in_order(rows):
        table.add_row(*(cell(row) for cell in COLUMNS.values()))
    Console(width=160).print(table)
    if given.markdown:
        given.markdown.write_text(markdown(in_order(rows), surroundings()))


if __name__ == "__main__":
    main()
