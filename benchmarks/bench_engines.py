"""What an engine costs: embedding on a Flink cluster of this machine, against the local runner on the same cores.

    make flink-up && python -m benchmarks.bench_engines                      20,000 pictures, a few minutes each
    python -m benchmarks.bench_engines --encoder ViT-B/32 --images 4000      a model of real size

Each run is `fastslow embed` into a root of its own. Its seconds are those of the Beam job as its log says them; "to
start" is what of them had passed when the first shard was committed: loading the model and one shard's work, and on a
cluster starting the job server and submitting. Throughput is of the shards after the first, from its commit to that of
the last. The local runner goes first and last.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.bench_night import make
from benchmarks.synthetic import SIZES, save, surroundings

POOL = 50000
"""Port of the worker pool, as in configs/runners/flink-workers.yaml."""

RUNS = {
    "local": (),
    "flink, workers in this process": ("--runner", "flink"),
    "flink, workers beside it": ("--runner", "flink-workers"),
    "local again": (),
}


@contextmanager
def worker_pool() -> Iterator[None]:
    """Python workers for the task managers of this machine."""
    command = [sys.executable, "-m", "pipelines.runners.worker_pool", f"--port={POOL}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None  # noqa: S101
        if not any(line.startswith("workers at ") for line in process.stderr):
            raise SystemExit(f"the pool of workers did not start; is port {POOL} taken?")
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
        yield
        process.terminate()


@dataclass(frozen=True)
class Run:
    """One run: seconds of its Beam job, seconds until the first shard was committed, images a second after that."""

    seconds: float
    start: float
    throughput: float


def embed(folder: Path, root: Path, images: int, where: tuple[str, ...]) -> Run:
    """Runs the command once."""
    command = [sys.executable, "-m", "pipelines.cli", "embed", str(folder / "night.yaml"), "--root", str(root), *where]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"embed night: \d+ items in ([\d.]+) s", done.stderr)
    if done.returncode or found is None:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    committed = sorted(path.stat().st_mtime for path in root.glob("embeddings/**/*.json"))
    spent = committed[-1] - committed[0]
    rate = images * (len(committed) - 1) / len(committed) / spent
    return Run(float(found[1]), round(float(found[1]) - spent, 1), round(rate, 1))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--encoder", choices=("demo", *SIZES), default="demo")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, worker_pool():
        folder = Path(name)
        make(folder, given.images, given.encoder)
        runs = {
            label: embed(folder, folder / f"root-{n}", given.images, where)
            for n, (label, where) in enumerate(RUNS.items())
        }
    local = [run for label, run in runs.items() if label.startswith("local")]
    whole, rate = min(run.seconds for run in local), max(run.throughput for run in local)
    of_local = {
        label: {"throughput": round(run.throughput / rate, 3), "whole job": round(whole / run.seconds, 3)}
        for label, run in runs.items()
        if run not in local
    }
    result = {
        "images": given.images,
        "encoder": given.encoder,
        "runs": {label: asdict(run) for label, run in runs.items()},
        "of local": of_local,
        "surroundings": surroundings(),
    }
    save(result, given.json)
    shown = Table(title=f"embedding {given.images:,} pictures, {given.encoder}", title_justify="left")
    for column in ("run", "images/s", "of local", "s to start", "s of the job", "of local"):
        shown.add_column(column, justify="left" if column == "run" else "right")
    for label, run in runs.items():
        rates = f"{run.throughput:.1f}", f"{run.throughput / rate:.2f}"
        shown.add_row(label, *rates, f"{run.start:.1f}", f"{run.seconds:.1f}", f"{whole / run.seconds:.2f}")
    Console(width=140).print(shown)


if __name__ == "__main__":
    main()
