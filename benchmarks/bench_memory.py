"""Whether the embed job's memory is flat in the size of a shard: peak of a small shard against that of a large one.

    python -m benchmarks.bench_memory                              20 MB against 2 GB, about a minute
    python -m benchmarks.bench_memory --sizes-mb 5 20              seconds, to see that it works

Each size runs the real job in a process of its own; the peak is that process's largest resident set.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.synthetic import SIZES, jpegs, make_clip, save, surroundings, write_shard

TARGET_MB = 300
"""The large shard may take this much more than the small one."""


def embed(model: str, root: str, shard: str) -> None:
    """The child: runs the job on one shard and writes its peak, in MB, and the number of rows to stdout."""
    from pipelines.embed.job import run, total
    from schemas.configs import DatasetConfig, EncoderConfig
    from schemas.jobs import Job
    from schemas.layout import Layout
    from schemas.manifests import EmbeddingManifest

    config = DatasetConfig(name="bench", encoder="bench")
    done = run(Job(config, EncoderConfig(path=model, dtype="float32"), None, Layout(root, "bench")), [shard])
    rows = total([EmbeddingManifest.read(url) for url in done.manifests]).embedded
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(json.dumps({"peak_mb": kilobytes / 1024, "rows": rows}) + "\n")


def main() -> None:
    """Measures, prints a table, writes JSON when asked; exit code 1 when memory is not flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes-mb", type=int, nargs="+", default=[20, 2000])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--json", type=Path, help="write the result here, e.g. benchmarks/results/memory.json")
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "ROOT", "SHARD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        embed(*arguments.child)
        return

    measured = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_clip(folder / "model", arguments.size)
        pictures = jpegs()
        mean_bytes = sum(map(len, pictures)) / len(pictures) + 2048  # headers and captions
        for megabytes in arguments.sizes_mb:
            shard = write_shard(folder / "s.tar", pictures, images=max(1, int(megabytes * 1e6 / mean_bytes)))
            command = [sys.executable, "-m", "benchmarks.bench_memory", "--child"]
            root = folder / f"root-{megabytes}"
            out = subprocess.run([*command, model, root, shard], stdout=subprocess.PIPE, text=True, check=True)
            measured.append({"shard_mb": shard.stat().st_size / 1e6, **json.loads(out.stdout.splitlines()[-1])})
            shard.unlink()

    table = Table(title=f"peak memory of the embed job ({arguments.size} CLIP, float32)")
    for heading in ("shard MB", "items", "peak MB", "above the first"):
        table.add_column(heading, justify="right")
    for found in measured:
        above = found["peak_mb"] - measured[0]["peak_mb"]
        table.add_row(f"{found['shard_mb']:.0f}", f"{found['rows']}", f"{found['peak_mb']:.0f}", f"{above:+.0f}")
    Console().print(table)
    save({"measured": measured, "surroundings": surroundings(), "target_mb": TARGET_MB}, arguments.json)
    if measured[-1]["peak_mb"] - measured[0]["peak_mb"] > TARGET_MB:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
