"""What an engine costs: embedding on a Flink cluster of this machine, against the local runner on the same cores.

    make flink-up && python -m benchmarks.bench_engines                      20,000 pictures, a few minutes each
    python -m benchmarks.bench_engines --encoder ViT-B/32 --images 4000      a model of real size

Each run is `fastslow embed` into a root of its own; seconds are those of the Beam job as its log says them, with
starting the job server, submitting and, beside the cluster, loading the model in two workers. The local runner goes
first and last.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


def embed(folder: Path, root: str, where: tuple[str, ...]) -> float:
    """Seconds of the Beam job of one run of the command."""
    command = [sys.executable, "-m", "pipelines.cli", "embed", str(folder / "night.yaml"), "--root", root, *where]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"embed night: \d+ items in ([\d.]+) s", done.stderr)
    if done.returncode or found is None:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return float(found[1])


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
        seconds = {
            label: embed(folder, str(folder / f"root-{n}"), where) for n, (label, where) in enumerate(RUNS.items())
        }
    best = min(seconds["local"], seconds["local again"])
    ratios = {label: round(best / spent, 3) for label, spent in seconds.items() if label.startswith("flink")}
    result = {
        "images": given.images,
        "encoder": given.encoder,
        "seconds": seconds,
        "throughput, engine / local": ratios,
        "surroundings": surroundings(),
    }
    save(result, given.json)
    shown = Table(title=f"embedding {given.images:,} pictures, {given.encoder}", title_justify="left")
    for column in ("run", "seconds", "images/s", "of local"):
        shown.add_column(column)
    for label, spent in seconds.items():
        shown.add_row(label, f"{spent:.1f}", f"{given.images / spent:.1f}", f"{best / spent:.2f}")
    Console(width=140).print(shown)


if __name__ == "__main__":
    main()
