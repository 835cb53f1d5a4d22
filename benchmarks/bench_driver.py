"""What one process of a run does alone, for each item, pair and part: memory and CPU seconds, for docs/scale.md.

    python -m benchmarks.bench_driver                 about two minutes, one thread, 3 GB

Stages spread over workers by shard, but some steps are done by the run's own process, and grow with the dataset. Each
is run at two sizes in processes of their own; what an item takes is the difference of their peaks (largest resident
set) divided by that of the sizes. Seconds are CPU seconds of the process, the least of some rounds, FAISS and BLAS on
one thread: they say how work grows, also on a machine that does other things besides.

unique   `embed.job`: an id used twice is looked for                                   bytes an item
check    `index.parts.check`: the same, and every vector read                          bytes an item
pairs    `rerank.plan`: candidates read, found in the shards, cut by shard, ranked     bytes a pair
locate   `rerank.plan.locate` of that: all shards read, their items among the candidates        CPU seconds an item
search   `rerank.plan.rows_among` of that: a shard's items among 200 million candidates         CPU seconds an item
cut      `rerank.plan.plan_shards` of that: pairs put in order and written           CPU seconds a pair and a shard
fill     `rerank.plan.fill_scores` of that: a shard's queries among all queries        CPU seconds a shard and query
lists    `index.lists`: one partial index opened and its lists counted                 bytes and CPU seconds a list
submit   the pipeline that an engine is sent, and what it moves between its steps      bytes a shard
exact    `index.exact.exact_search`: neighbours to measure recall against              multiply-adds a CPU second
decode   a shard read, unpacked, decoded to 224 pixels, without a model                pictures a CPU second
strings  more than 2 GiB of them, joined (`combine_chunks`) and picked (`take`): what Arrow says, and why the rerank
         does neither
"""

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks import synthetic, vectors
from pipelines.embed.plan import EmbedPlan, PlannedShard, Recipe
from schemas.configs import Captions, Embed, Index
from schemas.digests import digest_value
from schemas.ids import item_id
from schemas.layout import EmbeddingPaths, Layout
from schemas.manifests import EmbeddingManifest

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ITEMS = (200_000, 1_000_000)
QUERIES = (2_500, 10_000)
"""At last a fifth as many pairs as items, nearly each of an item of its own, as of ten million queries in a billion."""

DEPTH = 20
WIDTH = 8
LISTS = 131_072
OPENED, FILLED, ROUNDS = 40, 200, 5
AMONG = 200_000_000
"""Candidates of ten million queries in a billion items, and some more: 1.6 GB."""

SHARD = 10_000


def cpu(function: Callable[[], Any]) -> float:
    """CPU seconds of a call, all threads of this process."""
    before = time.process_time()
    function()
    return time.process_time() - before


def layout_of(folder: Path) -> Layout:
    """Where everything here lies."""
    return Layout(str(folder), "bench")


def parts(folder: Path, rows: int) -> list[str]:
    """Manifests of narrow parts."""
    return vectors.write_parts(layout_of(folder), vectors.Clustered(WIDTH), rows=rows)


def unique(folder: Path, rows: int) -> dict[str, Any]:
    """What the embed job does at its end."""
    from pipelines.embed.job import _check_unique

    urls = parts(folder, rows)
    shards = tuple(PlannedShard(url, "", 0, EmbeddingPaths("", "", url)) for url in urls)
    plan = EmbedPlan(Recipe("bench", "dataset", Captions(), Embed(), ""), str(folder), shards, ())
    return {"cpu_s": cpu(lambda: _check_unique(plan, EmbeddingManifest.read_all(urls), layout_of(folder / f"{rows}")))}


def check(folder: Path, rows: int) -> dict[str, Any]:
    """What the index job does before it trains."""
    from pipelines.index.parts import check as refuse_bad

    return {"cpu_s": cpu(lambda: refuse_bad(parts(folder, rows), dim=WIDTH))}


def pairs(folder: Path, queries: int) -> dict[str, Any]:
    """What the rerank job does before and after its workers, and on the way what it costs a shard."""
    from pipelines.rerank.fusion import fuse, rank
    from pipelines.rerank.plan import fill_scores, locate, plan_shards, read_candidates, to_score
    from schemas.manifests import CandidatesManifest
    from schemas.parquet import entry, write_table
    from schemas.rankings import CANDIDATES, SCORES

    urls = parts(folder, ITEMS[1])
    names = [f"q{digest_value(number)[:12]}" for number in range(queries)]
    rng = np.random.default_rng(0)
    every = [item_id("bench", f"{n // vectors.PART_ROWS:05d}-{n % vectors.PART_ROWS:05d}") for n in range(ITEMS[1])]
    ids = np.array(every)[rng.integers(0, len(every), queries * DEPTH)]
    at = f"{folder}/candidates-{queries}"
    with write_table(f"{at}/candidates.parquet", CANDIDATES) as table:
        table.write(
            {
                "query_id": np.repeat(names, DEPTH),
                "item_id": ids,
                "rank": np.tile(np.arange(1, DEPTH + 1, dtype=np.int32), queries),
                "fast_score": rng.random(len(ids), np.float32),
            }
        )
    CandidatesManifest(
        dataset="bench", index="", queries="", depth=DEPTH, data=entry(f"{at}/candidates.parquet")
    ).commit(f"{at}/manifest.json")
    asked = pa.table({"query_id": names, "text": [f"a text of some words, number {name}" for name in names]})
    with write_table(f"{at}/scores.parquet", SCORES) as table:
        table.write({"query_id": [], "item_id": [], "slow_score": []})
    del every
    known = asked.column("query_id").combine_chunks()
    found = read_candidates(f"{at}/manifest.json", CandidatesManifest.read(f"{at}/manifest.json"), known)
    items, shards = np.unique(found.item_id), [(url, url) for url in urls]
    places = locate(shards, items)
    located = min(cpu(lambda: locate(shards, items)) for _ in range(ROUNDS))
    job = vectors.job(layout_of(folder), Index())
    wanted = to_score(found, DEPTH)

    def write(number: int) -> object:
        name = f"{queries}-{number}"
        return plan_shards(job, name, "", shards, places=places, pairs=wanted, queries=asked, settings="")

    cut = min(cpu(functools.partial(write, number)) for number in range(ROUNDS))
    reading = min(cpu(lambda: fill_scores(found, [], known)) for _ in range(ROUNDS))
    filled = min(cpu(lambda: fill_scores(found, [f"{at}/scores.parquet"] * FILLED, known)) for _ in range(ROUNDS))
    rank(found, fuse(found, 1.0))
    return {
        "locate_cpu_s": located / ITEMS[1],
        "cut_cpu_s": cut / len(urls),
        "fill_cpu_s": max(0.0, filled - reading) / FILLED,
        "shards": len(urls),
    }


def search(_: Path, __: int) -> dict[str, Any]:
    """Ids spread as evenly as those that `schemas.ids.item_id` makes, a shard's in no order."""
    from pipelines.rerank.plan import rows_among

    items = np.arange(AMONG) * (2**63 // AMONG)
    rng = np.random.default_rng(0)
    shards = [rng.integers(0, 2**63 - 1, SHARD) for _ in range(10 * ROUNDS)]
    return {"cpu_s": cpu(lambda: [rows_among(ids, items) for ids in shards]) / len(shards) / SHARD}


def lists(folder: Path, _: int) -> dict[str, Any]:
    """A partial index of 10,000 items, opened again and again and kept open, as a merge does."""
    import faiss

    from pipelines.index.lists import open_lists, sizes_of, write_lists

    made, code = faiss.ArrayInvertedLists(LISTS, WIDTH), np.zeros(WIDTH, np.uint8)
    for number, where in enumerate(np.random.default_rng(0).integers(0, LISTS, 10_000).tolist()):
        made.add_entry(where, number, faiss.swig_ptr(code))
    path = folder / "one.lists"
    write_lists(made, path)
    kept = [open_lists(path)]
    before = resident_bytes()
    spent = cpu(lambda: [sizes_of(kept[-1]) for _ in range(OPENED) if kept.append(open_lists(path)) is None])
    held = resident_bytes() - before
    return {"bytes": held / OPENED / LISTS, "cpu_s": spent / OPENED / LISTS, "file_bytes": path.stat().st_size}


def submit(_: Path, __: int) -> dict[str, Any]:
    """Elements named as in a bucket, each shard with digests of its own; of each stage that Beam runs."""
    import pickle

    import apache_beam as beam

    from pipelines.index.partial import PlannedPartial
    from pipelines.rerank.plan import ShardTask
    from pipelines.runners.run import new_pipeline

    layout = Layout("gs://bucket/index", "photos")

    def element(stage: str, number: int) -> PlannedShard | PlannedPartial | ShardTask:
        url, digest = f"gs://bucket/photos/photos-{number:06d}.tar", digest_value(number)
        paths = layout.embedding_part(vectors.ENCODER, url, digest)
        if stage == "embed":
            return PlannedShard(url, digest, 700_000_000 + number, paths)
        if stage == "fill":
            stem = layout.partial(vectors.ENCODER, digest)
            return PlannedPartial(paths.manifest, "embedding", vectors.ENCODER, f"{stem}.lists", f"{stem}.json")
        scores = layout.score_part(vectors.ENCODER, url, digest)
        return ShardTask(url, "photos", vectors.ENCODER, scores, 2000 + number % 64, vectors.ENCODER)

    def sent(elements: Sequence[Any]) -> int:
        pipeline = new_pipeline([])
        _ = pipeline | beam.Create(elements)
        return len(pipeline.to_runner_api().SerializeToString())

    found = {}
    for stage in ("embed", "fill", "rerank"):
        made = [element(stage, number) for number in range(11_000)]
        found[f"{stage}_sent_bytes_a_shard"] = (sent(made) - sent(made[:1000])) / 10_000
        found[f"{stage}_moved_bytes_a_shard"] = float(len(pickle.dumps(made[0])))
    return found


def exact(_: Path, __: int) -> dict[str, Any]:
    """Vectors of width 512 in blocks as parts hand them out."""
    from pipelines.index.exact import exact_search
    from pipelines.index.parts import BLOCK_ROWS, Block

    source = vectors.Clustered(512)
    blocks = [Block(np.arange(BLOCK_ROWS) + n * BLOCK_ROWS, source.pictures(n, BLOCK_ROWS)) for n in range(3)]
    asked = source.texts(1024)
    macs = len(asked) * BLOCK_ROWS * len(blocks) * 512
    return {"macs_a_cpu_s": macs / cpu(lambda: exact_search(blocks, asked, 41))}


def decode(folder: Path, _: int) -> dict[str, Any]:
    """JPEGs of 640 x 480 from a tar, as CLIP wants them, the default JPEG scaling."""
    from encoders.decoding import decode as pixels
    from encoders.limits import DecodeLimits
    from encoders.pixels import DEFAULTS, Processor, spec_of
    from pipelines.webdataset.samples import read_samples
    from schemas.samples import Sample

    embed = Embed()
    shard = synthetic.write_shard(folder / "decode.tar", synthetic.jpegs(), images=1024)
    spec = spec_of(Processor("CLIP", DEFAULTS["CLIP"], folder))
    limits = DecodeLimits(embed.max_image_bytes, embed.max_video_bytes, embed.max_pixels, embed.max_decode_s)

    def walk() -> None:
        for one in read_samples(str(shard), shard="", captions=Captions(), key_scope="dataset", embed=embed):
            if isinstance(one, Sample):
                pixels(one.data, suffix=one.suffix, spec=spec, frames=1, limits=limits, jpeg_scaling=embed.jpeg_scaling)

    return {"pictures_a_cpu_s": 1024 / cpu(walk), "bytes_a_picture": shard.stat().st_size / 1024}


def strings(_: Path, __: int) -> dict[str, Any]:
    """What becomes of an array that int32 offsets cannot address."""
    one = pa.array(["x" * 1024])
    chunk = one.take(pa.array(np.zeros(1 << 17, np.int64)))

    def said(make: Callable[[], pa.Array]) -> str:
        try:
            made = make()
        except pa.ArrowException as error:
            return f"refused: {error}"
        try:
            made.validate()
        except pa.ArrowException as error:
            return f"damaged: {error}"
        return "whole"

    return {
        "joined": said(lambda: pa.chunked_array([chunk] * 17).combine_chunks()),
        "picked": said(lambda: one.take(pa.array(np.zeros(17 << 17, np.int64)))),
    }


STEPS: dict[str, tuple[Callable[[Path, int], dict[str, Any]], tuple[int, ...]]] = {
    "unique": (unique, ITEMS),
    "check": (check, ITEMS),
    "pairs": (pairs, QUERIES),
    "search": (search, (0,)),
    "lists": (lists, (0,)),
    "submit": (submit, (0,)),
    "exact": (exact, (0,)),
    "decode": (decode, (0,)),
    "strings": (strings, (0,)),
}


def peak_bytes() -> int:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def apart(step: str, folder: Path, size: int) -> dict[str, Any]:
    """A step in a process of its own, and its peak."""
    command = [sys.executable, "-m", "benchmarks.bench_driver", "--step", step, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--size", str(size)], stdout=subprocess.PIPE, text=True, check=True, env=os.environ | ONE_THREAD
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(folder: Path) -> dict[str, Any]:
    """All steps; what each takes of a unit."""
    parts(folder, max(ITEMS))
    found = {step: [apart(step, folder, size) for size in sizes] for step, (_, sizes) in STEPS.items()}
    few, many = found["pairs"]
    cut = (many["cut_cpu_s"] - few["cut_cpu_s"]) * many["shards"] / (QUERIES[1] - QUERIES[0]) / DEPTH
    slope = functools.partial(_slope, found)
    return {
        "unique": {"bytes_an_item": slope("unique", ITEMS)},
        "check": {"bytes_an_item": slope("check", ITEMS)},
        "pairs": {
            "bytes_a_pair": (many["peak"] - few["peak"]) / (QUERIES[1] - QUERIES[0]) / DEPTH,
            "locate_cpu_s_an_item": many["locate_cpu_s"],
            "search_cpu_s_an_item": found["search"][0]["cpu_s"],
            "cut_cpu_s_a_pair": cut,
            "cut_cpu_s_a_shard": max(0.0, many["cut_cpu_s"] - cut * QUERIES[1] * DEPTH / many["shards"]),
            "fill_cpu_s_a_shard_and_query": (many["fill_cpu_s"] - few["fill_cpu_s"]) / (QUERIES[1] - QUERIES[0]),
        },
        "lists": {"bytes_a_list": found["lists"][0]["bytes"], "cpu_s_a_list": found["lists"][0]["cpu_s"]},
        "submit": {name: value for name, value in found["submit"][0].items() if name != "peak"},
        "exact": {"macs_a_cpu_s": found["exact"][0]["macs_a_cpu_s"]},
        "decode": {name: found["decode"][0][name] for name in ("pictures_a_cpu_s", "bytes_a_picture")},
        "strings": {name: found["strings"][0][name] for name in ("joined", "picked")},
    }


def _slope(found: dict[str, list[dict[str, Any]]], step: str, sizes: tuple[int, int]) -> float:
    few, many = found[step]
    return float(many["peak"] - few["peak"]) / (sizes[1] - sizes[0])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        result = STEPS[given.step][0](given.folder, given.size)
        sys.stdout.write(json.dumps(result | {"peak": peak_bytes()}) + "\n")
        return
    with tempfile.TemporaryDirectory() as name:
        measured = measure(Path(name))
    synthetic.save({"measured": measured, "surroundings": synthetic.surroundings()}, given.json)
    table = Table(title="what one process does alone", title_justify="left")
    for heading in ("step", "unit", "value"):
        table.add_column(heading)
    for step, values in measured.items():
        for unit, value in values.items():
            table.add_row(step, unit.replace("_", " "), value if isinstance(value, str) else f"{value:.3g}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
