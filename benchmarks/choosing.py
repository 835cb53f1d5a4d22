"""docs/choosing.md: which of the five systems for what, from what bench_systems measured.

    python -m benchmarks.choosing --write docs/choosing.md     also draws docs/choosing.svg

Reads benchmarks/results/systems.json (the demo), and photos.json beside it where it is there.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench_systems import grid

RESULTS = Path(__file__).resolve().parent / "results"
FILES = {"demo": "systems.json", "photos": "photos.json"}
TITLES = {"demo": "The demo: 2,240 generated scenes and clips", "photos": "Flickr8k: 1,000 photos of the test split"}
LOG = 100_000
"""Distinct queries of a night."""

Row = dict[str, Any]

NAMES = {
    "fast-slow": "Thinking Fast and Slow",
    "vldeformer": "VLDeformer",
    "cooperative": "Retrieve Fast, Rerank Smart",
    "hivlp": "HiVLP",
    "loopitr": "LoopITR",
    "mixed": "LoopITR's vectors, Fast and Slow's captioner",
}

HEAD = """# Which of the five

Made by `python -m benchmarks.choosing --write docs/choosing.md` from `benchmarks/results/`; do not edit. The models
are ours, small, and run on {cores} CPU cores: compare the systems with each other, not with what large models reach.
A reranked query decodes and encodes its candidates; a nightly rerank of a log has them encoded once.
What the papers claim, and whether it holds here, is in [claims.md](claims.md).

![R@1 against what a query costs](choosing.svg)
"""

COLUMNS: dict[str, Callable[[Row], str]] = {
    "system": lambda row: NAMES[row["system"]],
    "fast R@1": lambda row: f"{100 * row['fast']['1']:.1f}",
    "R@10": lambda row: f"{100 * row['fast']['10']:.1f}",
    "reranked R@1": lambda row: f"{100 * row['reranked']['1']:.1f}",
    "bytes an item": lambda row: f"{row['vector_bytes_an_item']:,}",
    "hours to embed a million": lambda row: f"{hours(row):.2f}",
    "ms a query, fast": lambda row: f"{row['fast_ms']:.0f}",
    "ms a query, reranked": lambda row: f"{row['reranked_ms']:.0f}",
    "ms a pair": lambda row: f"{row['pair_ms']:.2f}",
    f"hours to rerank {LOG:,} queries": lambda row: f"{rerank_hours(row):.2f}",
}
"""Heading -> cell."""


def hours(row: Row) -> float:
    """Of one machine, to make the vectors of a million items, decoding aside."""
    return float(row["item_ms"]) * 1e6 / 3.6e6


def rerank_hours(row: Row) -> float:
    """Of one machine, to score the candidates of `LOG` new queries offline; encoding the candidates aside."""
    pairs = LOG * float(row["pairs_a_query"])
    return pairs * float(row["pair_ms"]) / 3.6e6


def gigabytes(row: Row) -> float:
    """Of the vectors of 100 million items, as they are stored."""
    return float(row["vector_bytes_an_item"]) * 100e6 / 1e9


def best(rows: Sequence[Row], of: Callable[[Row], float]) -> Row:
    """The row with the largest value."""
    return max(rows, key=of)


def advice(rows: Sequence[Row]) -> list[str]:
    """What the table says, in words; every name and number is looked up in it."""
    fast = best(rows, lambda row: row["fast"]["1"])
    slow = best(rows, lambda row: row["reranked"]["1"])
    small = best(rows, lambda row: -row["vector_bytes_an_item"])
    wide = best(rows, lambda row: row["vector_bytes_an_item"])
    gaining = [row for row in rows if row["gain"]["low"] > 0]
    scoring = gaining or rows
    cheap = best(scoring, lambda row: -row["pair_ms"])
    dear = best(scoring, lambda row: row["pair_ms"])
    idle = [NAMES[row["system"]] for row in rows if row not in gaining]
    of = "of those that gain, " if idle and gaining else ""
    quick = best(rows, lambda row: -row["item_ms"])
    tall = best(rows, lambda row: row["item_ms"])
    return [
        f"- **No time to rerank** (a large log every night, or answers in a few milliseconds): {NAMES[fast['system']]} "
        f"has the best vectors, R@1 {100 * fast['fast']['1']:.1f}.",
        f"- **Rerank, and quality counts most**: {NAMES[slow['system']]}, R@1 {100 * slow['reranked']['1']:.1f} after "
        f"{slow['pairs_a_query']:.0f} candidates ({100 * slow['fast']['1']:.1f} before)."
        + (f" Nothing is surely gained by the slow side of {'; '.join(idle)}." if idle else ""),
        f"- **A large log**: {of}a pair costs {cheap['pair_ms']:.2f} ms with {NAMES[cheap['system']]}, "
        f"{dear['pair_ms']:.2f} ms with {NAMES[dear['system']]}: {rerank_hours(cheap):.2f} against "
        f"{rerank_hours(dear):.2f} hours for {LOG:,} new queries; what an earlier night scored is not scored again.",
        f"- **A large corpus**: vectors take {small['vector_bytes_an_item']:,} bytes an item with "
        f"{NAMES[small['system']]} ({gigabytes(small):,.0f} GB for 100 million), {wide['vector_bytes_an_item']:,} with "
        f"{NAMES[wide['system']]} ({gigabytes(wide):,.0f} GB).",
        f"- **A corpus that changes much every night**: a million new items take {hours(quick):.2f} hours to embed "
        f"with {NAMES[quick['system']]}, {hours(tall):.2f} with {NAMES[tall['system']]}.",
    ]


GENERAL = """## What does not depend on the models

- **Below about 10,000 items** any of them answers by exact search; a hierarchy of vectors (HiVLP) is slower than one
  flat search there, and pays from about 100,000 items on, with vectors as wide as the papers' (claim HV2).
- **One network or two**: LoopITR and Retrieve Fast, Rerank Smart share one network between both sides, so one model is
  kept, loaded and embedded with. Thinking Fast and Slow keeps two, which can be trained and replaced apart: any fast
  side can be reranked by its captioner (`--encoder A --scorer B`).
- **What the slow side looks at**: the fusion of LoopITR and HiVLP and the captioner look at a picture that was encoded
  once, whatever is asked; the single streams of VLDeformer and Retrieve Fast, Rerank Smart run the whole transformer
  for every pair.
- **Few training pairs** (thousands of captions): vectors on frozen backbones, and a captioner to rerank, which is told
  every word of every caption; matching heads want more ([training.md](training.md) says what failed).
- **A GPU** changes the price of pairs most; on CPUs rerank fewer candidates. How few depends on the vectors: those of
  the demo, and the best on photos, bring all that the slow side would find into ten or twenty; weak ones do not (claims
  FS4, RR3, LP4), and where the slow side is the weaker one, more candidates make it worse.
"""


def draw(found: Mapping[str, Sequence[Row]]) -> str:
    """R@1 against milliseconds of a query as SVG, a panel for each data set: from fast to reranked, a line a system."""
    import altair as alt
    import vl_convert

    values = [
        {
            "panel": TITLES[name],
            "system": NAMES[row["system"]],
            "side": side,
            "ms": row[f"{side}_ms"],
            "recall": 100 * row[side]["1"],
        }
        for name, rows in found.items()
        for row in rows
        for side in ("fast", "reranked")
    ]
    make: Any = alt.Data
    base = alt.Chart().encode(
        x=alt.X("ms:Q", scale=alt.Scale(type="log", nice=False, padding=12), title="milliseconds a query (log scale)"),
        y=alt.Y("recall:Q", title="R@1, text to image, percent", scale=alt.Scale(zero=False, padding=12)),
        color=alt.Color("system:N", title=None, sort=list(NAMES.values()), legend=alt.Legend(labelLimit=300)),
    )
    shape = alt.Shape("side:N", title=None, sort=["fast", "reranked"])
    marks = base.mark_line(strokeWidth=1.5, opacity=0.6) + base.mark_point(filled=True, size=90, opacity=1).encode(
        shape=shape
    )
    panels = alt.layer(marks, data=make(values=values)).properties(width=330, height=260)
    titles = [TITLES[name] for name in found]
    chart = panels.facet(facet=alt.Facet("panel:N", title=None, sort=titles), columns=2)
    chart = chart.resolve_scale(x="independent", y="independent")
    chart = chart.configure(font="system-ui, sans-serif", background="white")
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return str(vl_convert.vegalite_to_svg(chart.to_dict(), vl_version=version))


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, Markdown.

    Args:
      found: by data set, as bench_systems writes it.
    """
    lines = [HEAD.format(cores=next(iter(found.values()))["surroundings"]["cores"])]
    for name, one in found.items():
        lines += [f"## {TITLES[name]}", "", grid(COLUMNS, one["systems"]), "", *advice(one["systems"]), ""]
        lines += [", ".join(f"{key} {value}" for key, value in one["surroundings"].items()) + ".", ""]
    return "\n".join([*lines, GENERAL])


def measured() -> dict[str, dict[str, Any]]:
    """What bench_systems wrote, by data set."""
    there = {name: RESULTS / file for name, file in FILES.items() if (RESULTS / file).is_file()}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in there.items()}


def main() -> None:
    """Writes the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, required=True)
    given = parser.parse_args()
    found = measured()
    given.write.write_text(page(found), encoding="utf-8")
    picture = draw({name: one["systems"] for name, one in found.items()})
    given.write.with_suffix(".svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
