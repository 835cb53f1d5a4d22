"""What a night costs: one in a hundred shards has changed, against the run that made everything.

    python -m benchmarks.bench_night                     20,000 pictures in 100 shards: a quarter of an hour
    python -m benchmarks.bench_night --encoder demo      about three minutes

Pictures are scenes as the demo draws them, each with noise of its own; the query log is a fixed 2,000 of their
captions. Encoder: a CLIP of the size of ViT-B/32 with random weights, nothing reranked; or the demo's LoopITR, on both
sides, which is so small that starting the processes is most of a night. The changed shard holds new pictures only, so
nothing in it can be taken over. Both runs are `fastslow reindex` with all processes and imports counted; `nothing` is a
run after them.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.synthetic import SIZES, make_clip, save, surroundings

SHARDS, QUERIES, SIZE = 100, 2000, 128


def write_shard(path: Path, first: int, images: int, seed: int) -> list[str]:
    """A tar of scenes; their captions."""
    import simplejpeg

    from pipelines.prepare import scenes
    from pipelines.prepare.shard_writer import Packed, write_tar

    rng = np.random.default_rng([seed, first])
    packed, captions = [], []
    for number in range(first, first + images):
        scene = scenes.scene(rng)
        data = simplejpeg.encode_jpeg(scenes.render(scene, SIZE, rng), quality=92, colorsubsampling="420")
        caption = scenes.caption(scene)
        captions.append(caption)
        packed.append(Packed(f"{seed}-{number:06d}", (("jpg", data), ("txt", caption.encode()))))
    write_tar(path, packed)
    return captions


def make(folder: Path, images: int, encoder: str) -> None:
    """Shards, query log, model and config."""
    (folder / "shards").mkdir()
    each = images // SHARDS
    captions: dict[str, None] = {}
    for number in range(SHARDS):
        captions |= dict.fromkeys(write_shard(folder / "shards" / f"{number:03d}.tar", number * each, each, seed=0))
    rows = [f"q{number}\t{text}" for number, text in enumerate(list(captions)[:QUERIES])]
    (folder / "queries.tsv").write_text("\n".join(["query_id\ttext", *rows]) + "\n")
    config = {
        "name": "night",
        "shards": [str(folder / "shards" / "*.tar")],
        "queries": {"log": str(folder / "queries.tsv")},
    }
    if encoder == "demo":
        config |= {"encoder": "demo-loopitr", "scorer": "demo-loopitr"}
    else:
        make_clip(folder / "clip", encoder)
        config |= {"encoder": str(folder / "clip"), "scorer": None}
    (folder / "night.yaml").write_text(yaml.safe_dump(config))


def reindex(folder: Path) -> dict[str, Any]:
    """One run of the command: seconds, all and by stage, and what was worked on."""
    command = [sys.executable, "-m", "pipelines.cli", "reindex", str(folder / "night.yaml"), "--json"]
    started = time.perf_counter()
    done = subprocess.run([*command, "--root", str(folder / "root")], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    summary = json.loads(done.stdout)
    return {
        "seconds": round(seconds, 1),
        "stages": summary["seconds"],
        "embedded": _counted(done.stderr, "embedded"),
        "pairs_scored": _counted(done.stderr, "asked") - _counted(done.stderr, "reused", after="scored:"),
        "published": summary["published"],
    }


def _counted(log: str, name: str, *, after: str = "") -> int:
    """A counter as the log says it; 0 where the stage had nothing to do."""
    found = re.findall(rf"{after}.*\b{name} (\d+)", log)
    return int(found[-1]) if found else 0


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--encoder", choices=("demo", *SIZES), default="ViT-B/32")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, given.images, given.encoder)
        each = given.images // SHARDS
        runs = {"full": reindex(folder)}
        write_shard(folder / "shards" / "050.tar", 50 * each, each, seed=1)
        runs["night"] = reindex(folder)
        runs["nothing"] = reindex(folder)
    full, night = runs["full"], runs["night"]
    ratios = {
        "items embedded, night / full": round(night["embedded"] / full["embedded"], 4),
        "pairs scored, night / full": round(night["pairs_scored"] / max(1, full["pairs_scored"]), 4),
        "seconds, night / full": round(night["seconds"] / full["seconds"], 4),
    }
    result = {
        "images": given.images,
        "encoder": given.encoder,
        "runs": runs,
        "ratios": ratios,
        "surroundings": surroundings(),
    }
    save(result, given.json)
    shown = Table(
        title=f"{given.images:,} pictures, {given.encoder}, one of {SHARDS} shards changed", title_justify="left"
    )
    for column in ("run", "seconds", "embedded", "pairs scored", "by stage"):
        shown.add_column(column)
    for label, run in runs.items():
        stages = ", ".join(f"{stage} {seconds:g}" for stage, seconds in run["stages"].items())
        shown.add_row(label, f"{run['seconds']:g}", f"{run['embedded']:,}", f"{run['pairs_scored']:,}", stages)
    for label, value in ratios.items():
        shown.add_row(label, f"{value:g}", "", "", "")
    Console(width=140).print(shown)


if __name__ == "__main__":
    main()
