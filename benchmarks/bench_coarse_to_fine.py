"""What coarse to fine saves against a flat search at the finest level, by items: multiply-adds and wall clock (HV2).

    python -m benchmarks.bench_coarse_to_fine                      1,000 to 100,000 items, some minutes
    python -m benchmarks.bench_coarse_to_fine --items 1000 10000   seconds, to see that it works

One query at a time, one thread, float32, 10 answers; shortlists as by default (K_1 a tenth of the items), and of 500
(and 100) items whatever their number. Items and queries are random directions: the time does not depend on what the
vectors mean; what the search finds is measured by the index stage on real ones.

numpy    both sides exhaustive, the same function over the finest level and over the coarsest one: like with like
faiss    both sides a `Flat` index searched as the pipeline searches it; long shortlists cost a selection of their own
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.synthetic import save, surroundings
from pipelines.claims.cost import measure

LEVELS = ((8, 32), (64, 256, 768))
"""The demo's widths, and those of the size papers use."""

ITEMS = (1_000, 10_000, 100_000)
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def plot(rows: Sequence[dict[str, Any]]) -> str:
    """The ratios over the number of items as SVG, one panel for each set of widths."""
    import altair as alt
    import vl_convert

    kinds = {"mac_ratio": "multiply-adds", "ratio": "milliseconds, numpy", "faiss_ratio": "milliseconds, FAISS"}
    names = [f"{' → '.join(map(str, row['dims']))}, K₁ = {row['schedule']}" for row in rows]
    values = [
        {"panel": name, "items": row["items"], "of": kind, "ratio": row[key]}
        for name, row in zip(names, rows, strict=True)
        for key, kind in kinds.items()
    ]
    ticks = alt.Axis(values=sorted({row["items"] for row in rows}), format="~s", grid=False)
    make: Any = alt.Data
    base = alt.Chart().encode(
        x=alt.X("items:Q", scale=alt.Scale(type="log"), title="items (log scale)", axis=ticks),
        y=alt.Y("ratio:Q", scale=alt.Scale(zero=True), title="flat / coarse to fine"),
        color=alt.Color("of:N", title=None, sort=list(kinds.values())),
    )
    even = alt.Chart().mark_rule(strokeDash=[5, 4], color="#888").encode(y=alt.datum(1))
    lines = base.mark_line(strokeWidth=2) + base.mark_point(filled=True, size=40, opacity=1)
    layers = alt.layer(even, lines, data=make(values=values)).properties(width=260, height=220)
    panels = layers.facet(facet=alt.Facet("panel:N", title=None, sort=list(dict.fromkeys(names))), columns=2)
    chart = panels.configure(font="system-ui, sans-serif", background="white")
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return str(vl_convert.vegalite_to_svg(chart.to_dict(), vl_version=version))


def main() -> None:
    """Measures, prints a table, writes JSON and the plot beside it when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=list(ITEMS))
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write here, and the plot beside it as .svg")
    given = parser.parse_args()
    if any(os.environ.get(name) != "1" for name in ONE_THREAD):  # read when numpy and faiss are loaded, so: again
        command = [sys.executable, "-m", "benchmarks.bench_coarse_to_fine", *sys.argv[1:]]
        raise SystemExit(
            subprocess.run(command, env=os.environ | dict.fromkeys(ONE_THREAD, "1"), check=False).returncode
        )

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for dims in LEVELS:
            for items in given.items:
                rows += measure(dims, items, given.queries, Path(folder))
    table = Table(title="one query, one thread, float32; milliseconds, and how many times fewer")
    for heading in ("widths", "items", "shortlist", "MACs", "flat", "c2f", "ratio", "FAISS", "c2f", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            "-".join(map(str, row["dims"])),
            f"{row['items']:,}",
            ", ".join(f"{kept:,}" for kept in row["shortlist"]),
            f"{row['mac_ratio']:.2f}x",
            *(f"{row[key]:.3f}" for key in ("flat_ms", "coarse_to_fine_ms")),
            f"{row['ratio']:.2f}x",
            *(f"{row[key]:.3f}" for key in ("faiss_flat_ms", "faiss_coarse_to_fine_ms")),
            f"{row['faiss_ratio']:.2f}x",
        )
    Console(width=120).print(table)
    save({"measured": rows, "surroundings": surroundings()}, given.json)
    if given.json:
        given.json.with_suffix(".svg").write_text(plot(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
