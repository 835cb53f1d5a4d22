"""Requests that a run makes of an object store, counted at the server: of each shard, and besides.

    python -m benchmarks.bench_requests                 3 and 33 shards of four pictures, some minutes

The server is the one of the tests (moto, on the loopback interface). `fastslow reindex` runs with root and shards in a
bucket and the demo's LoopITR on both sides: everything new, then nothing changed. What a shard takes is the difference
of the two sizes, divided by that of the shards. Heartbeats of the lock, one each half minute, are left out: they tell
how long a run took here. Listings are told apart from GET: stores charge for them as for PUT.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.bench_night import write_shard
from benchmarks.synthetic import save, surroundings

SERVER = Path(__file__).resolve().parent.parent / "tests" / "stores" / "s3_server.py"
KINDS = ("GET", "HEAD", "LIST", "PUT", "POST", "DELETE")


@contextmanager
def s3_server() -> Iterator[str]:
    """URL of a fresh S3 server; this process and those it starts find it as any other store."""
    with subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise RuntimeError("no pipe from the server, which says its port")
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        os.environ |= {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        try:
            yield url
        finally:
            process.terminate()


def reindex(server: str, config: Path, root: str) -> dict[str, int]:
    """Requests of one run of the command, by kind."""
    urllib.request.urlopen(urllib.request.Request(f"{server}/-/faults", data=b"[]")).close()  # counts start anew
    command = [sys.executable, "-m", "pipelines.cli", "--quiet", "reindex", str(config), "--root", root, "--json"]
    subprocess.run(command, stdout=subprocess.PIPE, check=True)
    with urllib.request.urlopen(f"{server}/-/counts") as answer:
        counts = json.load(answer)
    found = {kind: counts.get(kind, 0) for kind in KINDS}
    found["LIST"] = counts.get("listings", 0)
    found["GET"] -= found["LIST"]
    found["PUT"] -= max(0, counts.get("PUT of a lock", 0) - 1)
    return found


def measure(server: str, folder: Path, shards: int, images: int) -> dict[str, dict[str, int]]:
    """Run -> requests by kind, in a bucket of its own."""
    from schemas.commits import publish_file
    from schemas.stores import open_store

    bucket = f"s3://shards-{shards}"
    open_store(bucket)[0].mkdir(bucket.removeprefix("s3://"))
    for number in range(shards):
        path = folder / f"{number:03d}.tar"
        write_shard(path, number * images, images, seed=0)
        publish_file(path, f"{bucket}/photos/{path.name}")
    config = folder / f"requests-{shards}.yaml"
    models = {"encoder": "demo-loopitr", "scorer": "demo-loopitr"}
    config.write_text(yaml.safe_dump({"name": "requests", "shards": [f"{bucket}/photos/*.tar"], **models}))
    root = f"{bucket}/index"
    return {run: reindex(server, config, root) for run in ("everything new", "nothing changed")}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs=2, default=[3, 33], metavar=("FEW", "MANY"))
    parser.add_argument("--images", type=int, default=4, help="of a shard")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    few, many = given.shards
    with s3_server() as server, tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name  # nothing fetched before is here
        small, large = (measure(server, Path(name), shards, given.images) for shards in (few, many))
    runs: dict[str, Any] = {}
    for run in small:
        each = {kind: (large[run][kind] - small[run][kind]) / (many - few) for kind in KINDS}
        besides = {kind: round(small[run][kind] - few * each[kind], 1) for kind in KINDS}
        runs[run] = {
            "counted": {str(few): small[run], str(many): large[run]},
            "a shard": {kind: round(value, 1) for kind, value in each.items()},
            "besides": besides,
        }
    save({"images a shard": given.images, "runs": runs, "surroundings": surroundings()}, given.json)
    table = Table(title=f"requests of a run, {few} and {many} shards of {given.images} pictures", title_justify="left")
    table.add_column("run")
    table.add_column("of")
    for kind in KINDS:
        table.add_column(kind, justify="right")
    for run, found in runs.items():
        for part in ("a shard", "besides"):
            table.add_row(run, part, *(f"{found[part][kind]:g}" for kind in KINDS))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
