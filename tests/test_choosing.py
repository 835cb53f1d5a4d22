"""docs/choosing.md: its advice names the rows of its table, and its numbers follow from them."""

from pathlib import Path

import pytest

from benchmarks import bench_systems, choosing

REPO = Path(__file__).resolve().parent.parent


def row(system: str, fast: float, reranked: float, *, vector: int, item: float, pair: float) -> dict:
    return {
        "system": system,
        "fast": {"1": fast, "5": fast, "10": fast},
        "reranked": {"1": reranked, "5": reranked, "10": reranked},
        "vector_bytes_an_item": vector,
        "item_ms": item,
        "pair_ms": pair,
        "pairs_a_query": 20.0,
        "fast_ms": 9.0,
        "reranked_ms": 40.0,
        "gain": {"value": reranked - fast, "low": reranked - fast - 0.06, "high": reranked - fast + 0.06},
    }


ROWS = [
    row("loopitr", 0.4, 0.8, vector=64, item=2.0, pair=0.5),
    row("vldeformer", 0.7, 0.75, vector=256, item=3.6, pair=1.8),
    row("fast-slow", 0.5, 0.9, vector=128, item=1.8, pair=0.9),
]


def test_the_page_in_the_repository_is_what_the_benchmarks_give():
    found = choosing.measured()
    assert (REPO / "docs/choosing.md").read_text() == choosing.page(found)


def test_what_is_advised_is_what_the_rows_say():
    rerank_not, rerank, log, corpus, change = choosing.advice(ROWS)
    assert "VLDeformer has the best vectors, R@1 70.0" in rerank_not
    assert "Thinking Fast and Slow, R@1 90.0 after 20 candidates (50.0 before)" in rerank
    assert "Nothing is surely gained by the slow side of VLDeformer." in rerank
    assert "of those that gain, a pair" in log
    assert "0.50 ms with LoopITR, 0.90 ms with Thinking Fast and Slow: 0.28 against 0.50 hours for 100,000 new" in log
    assert "64 bytes an item with LoopITR (6 GB for 100 million), 256 with VLDeformer (26 GB)" in corpus
    assert "0.50 hours to embed with Thinking Fast and Slow, 1.00 with VLDeformer" in change


def test_where_no_slow_side_gains_the_advice_says_so_and_compares_all():
    _, rerank, log, *_ = choosing.advice([{**row, "gain": {"low": -0.1}} for row in ROWS])
    assert "Nothing is surely gained by the slow side of LoopITR; VLDeformer; Thinking Fast and Slow." in rerank
    assert "log**: a pair costs 0.50 ms with LoopITR, 1.80 ms with VLDeformer" in log


def test_a_system_measured_again_replaces_its_row_and_no_other(tmp_path):
    path = tmp_path / "photos.json"
    assert bench_systems.kept(path) == {}
    bench_systems.save({"systems": ROWS, "surroundings": {}}, path)
    rows = bench_systems.kept(path) | {"vldeformer": row("vldeformer", 0.1, 0.2, vector=1, item=1.0, pair=1.0)}
    again = bench_systems.in_order(rows)
    assert [one["system"] for one in again] == ["fast-slow", "vldeformer", "loopitr"]
    assert [one["fast"]["1"] for one in again] == [0.5, 0.1, 0.4]


@pytest.mark.parametrize("names", [("demo",), ("demo", "photos")])
def test_the_page_has_a_table_for_each_data_set_and_the_picture_every_system(names):
    found = {name: {"systems": ROWS, "surroundings": {"cores": 2}} for name in names}
    text = choosing.page(found)
    assert text.count("| LoopITR | 40.0 | 40.0 | 80.0 | 64 | 0.56 | 9 | 40 | 0.50 | 0.28 |") == len(names)
    assert [choosing.TITLES[name] in text for name in choosing.FILES] == [name in names for name in choosing.FILES]
    picture = choosing.draw({name: ROWS for name in names})
    assert all(choosing.NAMES[one["system"]] in picture for one in ROWS)


def test_on_photos_the_last_system_is_one_model_s_vectors_and_another_s_slow_side(tmp_path):
    bench = bench_systems.Bench("flickr8k", "", checkpoints=tmp_path)
    lite, captioner = str(tmp_path / "flickr8k-loopitr-lite"), str(tmp_path / "flickr8k-fast-slow")
    assert bench.models("mixed") == (lite, captioner)
    assert bench.lacks("mixed") == [lite, captioner]
    assert bench.models("fast-slow") == (captioner, captioner)
    Path(captioner).mkdir()
    Path(captioner, "training.json").write_text("{}")
    assert (bench.lacks("mixed"), bench.lacks("fast-slow")) == ([lite], [])
    assert bench_systems.DEMO.models("hivlp") == ("demo-hivlp", "demo-hivlp")
    assert bench_systems.DEMO.lacks("hivlp") == []
    assert set(choosing.NAMES) == {*bench_systems.SYSTEMS, *bench_systems.MIXED}
