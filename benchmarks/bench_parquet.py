"""How fast vectors are read from our Parquet layout, against the defaults of pyarrow, in one run.

    python -m benchmarks.bench_parquet                     100,000 x 512, some seconds
    python -m benchmarks.bench_parquet --rows 2000

plain      fixed_size_list<float16>, not null, no dictionary, no compression (schemas.parquet)
defaults   list<float16> as `pyarrow.parquet.write_table` writes it: dictionary, Snappy, nullable
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from schemas.parquet import read_table, vectors, write_table

REPETITIONS = 5


def best_seconds(function: Callable[[], object]) -> float:
    """The best of some calls."""
    times = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def measure(rows: int, width: int, folder: Path) -> dict[str, float]:
    """Seconds to read all vectors as float32 and megabytes on disk, of both layouts."""
    values = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float16)
    ours, defaults = str(folder / "ours.parquet"), str(folder / "defaults.parquet")
    element = pa.field("element", pa.float16(), nullable=False)
    with write_table(ours, pa.schema([pa.field("embedding", pa.list_(element, width), nullable=False)])) as table:
        for start in range(0, rows, 1024):
            table.write({"embedding": values[start : start + 1024]})
    offsets = np.arange(0, rows * width + 1, width, dtype=np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))
    pq.write_table(pa.table({"embedding": lists}), defaults)

    def read_defaults() -> np.ndarray:
        column = pq.read_table(defaults).column("embedding").combine_chunks()
        return column.values.to_numpy(zero_copy_only=False).reshape(rows, width).astype(np.float32)

    def read_ours() -> np.ndarray:
        return vectors(read_table(ours).column("embedding"))

    np.testing.assert_array_equal(read_ours(), read_defaults())
    found = {"plain_s": best_seconds(read_ours), "defaults_s": best_seconds(read_defaults)}
    sizes = {"plain_mb": Path(ours).stat().st_size / 1e6, "defaults_mb": Path(defaults).stat().st_size / 1e6}
    return found | sizes | {"ratio": found["defaults_s"] / found["plain_s"]}


def main() -> None:
    """Measures and prints, and writes JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--json", type=Path, help="write the result here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.rows, given.width, Path(folder))
    Console().print({name: round(value, 3) for name, value in found.items()})
    if given.json:
        given.json.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
