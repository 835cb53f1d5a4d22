"""The whole stage on real files: what is ranked, what a rerun does, what a kill leaves behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.rerank import job as rerank
from pipelines.rerank.fusion import Pairs, Ranked
from pipelines.rerank.plan import Places
from schemas.errors import ConfigError, GateError, StaleError
from schemas.jobs import Job, Runner
from schemas.manifests import CandidatesManifest, RankingsManifest, ScoresManifest, list_manifests
from schemas.parquet import read_table
from schemas.rankings import trec_qrels, trec_run


def run(world, job=None, **kwargs):
    url = rerank.run(job or world.job, world.plan, world.candidates, world.queries, lanes=2, **kwargs)
    manifest = RankingsManifest.read(url)
    return manifest, read_table(f"{url.rsplit('/', 1)[0]}/rankings.parquet"), url.rsplit("/", 1)[0]


def captions(world) -> dict[str, str]:
    """Query id -> text."""
    manifest = json.loads(Path(world.queries).read_text())
    table = read_table(f"{world.queries.rsplit('/', 1)[0]}/{manifest['data']['name']}")
    return dict(zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True))


def first_keys(table) -> dict[str, str]:
    top = table.filter(np.asarray(table["rank"]) == 1)
    return dict(zip(top["query_id"].to_pylist(), top["key"].to_pylist(), strict=True))


def test_every_candidate_is_ranked_once_and_the_slow_side_mends_the_order(world, colours):
    manifest, table, folder = run(world)
    assert table.num_rows == 24 * 6 == manifest.pair_evaluations
    assert manifest.items_encoded == 24
    assert table["slow_score"].null_count == 0
    names = colours.colours(24)
    right = {query: f"item{names.index(text.split()[-1]):03d}" for query, text in captions(world).items()}
    assert first_keys(table) == right
    fast = table.filter(np.asarray(table["fast_rank"]) == 1)
    hits = sum(right[q] == k for q, k in zip(fast["query_id"].to_pylist(), fast["key"].to_pylist(), strict=True))
    assert hits < 20  # blue is not seen by the fast side
    for _, rows in table.to_pandas().groupby("query_id"):
        assert rows["rank"].tolist() == list(range(1, 7))
        assert rows["score"].is_monotonic_decreasing
    assert Path(folder, "run.trec").read_text().count("\n") == table.num_rows
    assert Path(folder, "qrels.trec").read_text().count("\n") == 24


def test_each_score_is_what_the_scorer_says_of_that_text_and_that_picture(world, colours):
    _, table, _ = run(world)
    texts, names = captions(world), colours.colours(24)
    for row in table.to_pylist():
        seen = colours.colour_of(f"x {names[int(row['key'][4:])]}")
        oracle = -np.linalg.norm(seen - colours.colour_of(texts[row["query_id"]]))
        assert row["slow_score"] == pytest.approx(oracle, abs=0.03)  # JPEG moves a colour a little


def test_scoring_all_items_without_fast_scores_is_exhaustive_scoring(world, colours):
    world.candidates = colours.find_candidates(world.job, world.plan, world.queries, 24)
    manifest, table, _ = run(world, world.with_settings(rerank__depth=24, rerank__beta=0.0))
    assert (manifest.beta, manifest.beta_source) == (0.0, "config")
    for _, rows in table.to_pandas().groupby("query_id"):
        assert len(rows) == 24
        assert rows["score"].tolist() == rows["slow_score"].tolist() == sorted(rows["slow_score"], reverse=True)


def test_reranking_k_candidates_never_has_more_first_hits_than_the_fast_side_has_in_k(world):
    _, table, _ = run(world)
    judged = read_table(f"{run(world)[2]}/judgements.parquet").to_pandas()
    merged = table.to_pandas().merge(judged[["query_id", "item_id"]], on=["query_id", "item_id"])
    assert (merged["rank"] == 1).sum() <= merged["query_id"].nunique() <= 24


def test_without_a_scorer_the_fast_order_stands(world):
    job = Job(world.job.dataset, world.job.encoder, None, world.job.layout)
    manifest, table, _ = run(world, job)
    assert (manifest.scorer, manifest.beta, manifest.beta_source, manifest.pair_evaluations) == (None, 0.0, "none", 0)
    assert table["rank"].to_pylist() == table["fast_rank"].to_pylist()
    assert table["score"].to_pylist() == table["fast_score"].to_pylist()
    assert table["slow_score"].null_count == table.num_rows


def test_candidates_below_the_rerank_depth_are_not_scored_and_follow(world):
    manifest, table, _ = run(world, world.with_settings(rerank__depth=2))
    assert manifest.pair_evaluations == 48
    assert manifest.unscored_pairs == 0
    scored = table.to_pandas().groupby("query_id")
    for _, rows in scored:
        assert rows["slow_score"].notna().tolist() == [True] * 2 + [False] * 4
        assert rows["fast_rank"].tolist()[2:] == [3, 4, 5, 6]
        assert rows["score"].is_monotonic_decreasing


def test_a_second_run_scores_nothing_and_changes_no_byte(world, colours, monkeypatch):
    _, _, folder = run(world)
    before = colours.tree(world.job.layout.root)
    monkeypatch.setattr(colours.ColourModel, "score", lambda *_: pytest.fail("scored again"))
    assert run(world)[2] == folder
    assert colours.tree(world.job.layout.root) == before


def test_a_replayed_bundle_changes_no_byte(world, colours, tmp_path):
    run(world)
    other = colours.make_world(tmp_path / "other")
    replayed = Job(
        other.job.dataset,
        other.job.encoder,
        other.job.scorer,
        other.job.layout,
        Runner(beam_args=("--direct_runner_bundle_repeat=1",)),
    )
    run(other, replayed)
    for stage in ("scores", "rankings"):
        ours, theirs = (colours.tree(f"{w.job.layout.root}/{stage}") for w in (world, other))
        data = {name: value for name, value in ours.items() if not name.endswith(".json")}
        assert {name.split("/", 2)[2]: value for name, value in data.items()} == {
            name.split("/", 2)[2]: value for name, value in theirs.items() if not name.endswith(".json")
        }


@pytest.mark.parametrize("lost", ["manifest", "all of a shard", "rankings manifest"])
def test_what_a_kill_leaves_is_gone_on_with_to_the_same_bytes(world, colours, lost):
    _, _, folder = run(world)
    whole = colours.tree(world.job.layout.root)
    scores = next(Path(world.job.layout.root, "scores", "colours").iterdir())
    manifest = next(scores.glob("*.json"))
    if lost == "rankings manifest":
        Path(folder, "manifest.json").unlink()
        Path(folder, "run.trec").unlink()
    else:
        Path(folder, "manifest.json").unlink()
        manifest.unlink()
        if lost == "all of a shard":
            for path in scores.glob(f"{manifest.stem}*"):
                path.unlink()
    run(world)
    assert colours.tree(world.job.layout.root) == whole


def test_a_picture_that_is_gone_is_a_reject_and_its_query_goes_on(world):
    shard = Path(world.shards[1])
    shard.unlink()
    manifest, table, _ = run(world)
    assert table.num_rows == 24 * 6
    assert manifest.unscored_pairs == table["slow_score"].null_count > 0
    for _, rows in table.to_pandas().groupby("query_id"):
        scored = rows["slow_score"].notna().tolist()
        assert scored == sorted(scored, reverse=True)
        assert rows["fast_rank"][rows["slow_score"].isna()].is_monotonic_increasing
    folder = next(Path(world.job.layout.root, "scores", "colours").iterdir())
    found = [ScoresManifest.read(url) for url in list_manifests(str(folder))]
    rejects = read_table(f"{folder}/{next(m for m in found if m.unscored).rejects.name}").to_pylist()
    assert {row["error"] for row in rejects} == {"PictureGone"}
    assert {row["stage"] for row in rejects} == {"rerank"}
    assert len(rejects) == 8


def test_many_lost_pictures_stop_the_job(world):
    for shard in world.shards[:2]:
        Path(shard).unlink()
    with pytest.raises(GateError, match="16 of 24 candidates could not be read"):
        run(world)


def test_candidates_of_other_queries_are_refused(world):
    manifest = CandidatesManifest.read(world.candidates)
    Path(world.candidates).unlink()
    manifest.model_copy(update={"queries": "other"}).commit(world.candidates)
    with pytest.raises(StaleError, match="found for other queries"):
        run(world)


def test_beta_is_fitted_on_the_fit_split_alone(world):
    manifest, table, _ = run(world)
    assert manifest.beta_source == "fit"
    again = world.with_settings(queries__ground_truth="none")
    assert (run(world, again)[0].beta, run(world, again)[0].beta_source) == (0.0, "none")


def test_beta_of_a_checkpoint_is_read_from_its_folder(world):
    job = world.with_settings(rerank__beta="checkpoint")
    with pytest.raises(ConfigError, match="fusion_beta"):
        run(world, job)
    Path(job.scorer.path, "training.json").write_text(json.dumps({"fusion_beta": 0.25}))
    manifest, table, _ = run(world, job)
    assert (manifest.beta, manifest.beta_source) == (0.25, "checkpoint")
    rows = table.to_pandas()
    assert np.allclose(rows["score"], rows["slow_score"] + 0.25 * rows["fast_score"], atol=1e-6)


def test_compressed_shards_give_the_same_scores(world, colours, tmp_path):
    packed = colours.make_world(tmp_path / "packed", compressed=True)
    columns = ["query_id", "item_id", "slow_score", "rank"]
    assert run(packed)[1].select(columns).equals(run(world)[1].select(columns))


def test_a_finished_stage_answers_without_torch_or_beam(world):
    run(world)
    code = (
        "import sys, pickle, pathlib\n"
        "from pipelines.rerank.job import run\n"
        "run(*pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()))\n"
        "assert not {'torch', 'apache_beam', 'faiss', 'transformers'} & set(sys.modules), sorted(sys.modules)\n"
    )
    import pickle

    path = Path(world.job.layout.root, "arguments")
    path.write_bytes(pickle.dumps((world.job, world.plan, world.candidates, world.queries)))
    env = os.environ | {"PYTHONPATH": str(Path(rerank.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=env)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of numba, while it compiles ranx
def test_ranx_reads_our_run_and_qrels_and_agrees(world):
    ranx = pytest.importorskip("ranx")
    _, table, folder = run(world)
    qrels = ranx.Qrels.from_file(f"{folder}/qrels.trec", kind="trec")
    found = ranx.evaluate(qrels, ranx.Run.from_file(f"{folder}/run.trec", kind="trec"), ["hit_rate@1", "hit_rate@5"])
    judged = read_table(f"{folder}/judgements.parquet").to_pandas()
    merged = table.to_pandas().merge(judged[["query_id", "item_id"]], on=["query_id", "item_id"])
    best = merged.groupby("query_id")["rank"].min()
    assert found["hit_rate@1"] == pytest.approx((best <= 1).sum() / 24)
    assert found["hit_rate@5"] == pytest.approx((best <= 5).sum() / 24)


def test_what_is_written_does_not_depend_on_how_many_rows_are_named_at_once(world, monkeypatch):
    lines, tables = set(), []
    for rows in (1, 7, 144, 1 << 20):
        monkeypatch.setattr(rerank, "ROWS_AT_ONCE", rows)
        _, ranked, folder = run(world)
        judged = read_table(f"{folder}/judgements.parquet")
        tables.append((ranked, judged))
        lines.add(tuple(Path(folder, name).read_bytes() for name in ("run.trec", "qrels.trec")))
        Path(folder, "manifest.json").unlink()
    assert all(table.equals(first) for pair in tables for table, first in zip(pair, tables[0], strict=True))
    ranked, judged = tables[0]
    columns = (ranked[name].to_pylist() for name in ("query_id", "key", "rank"))
    run_text = trec_run(zip(*columns, strict=True), depth=6, tag="fastslow")
    qrels_text = trec_qrels(zip(judged["query_id"].to_pylist(), judged["key"].to_pylist(), strict=True))
    assert lines == {(run_text.encode(), qrels_text.encode())}


@pytest.mark.slow
def test_names_of_more_than_two_gib_come_out_whole(monkeypatch):
    monkeypatch.setattr(rerank, "ROWS_AT_ONCE", 1000)
    items, queries, long = 5, 6600, 1 << 16
    keys = [str(number) * long for number in range(items)]
    places = Places(np.arange(items), np.zeros(items, np.int64), pa.table({"key": pa.array(keys, pa.large_string())}))
    count = items * queries
    assert count * long > 2**31
    number = np.arange(count)
    rank = (number % items + 1).astype(np.int32)
    zeros = np.zeros(count, np.float32)
    pairs = Pairs(number // items, number % items, rank, zeros, zeros)
    names = pa.array([f"q{query}" for query in range(queries)])
    row = 0
    for piece in rerank._run(pairs, Ranked(number, rank, zeros), places, names, depth=items):
        for line in piece.splitlines():
            query, _, key, place, score, _ = line.split(b" ")
            assert (query, len(key), key[:1], key[-1:]) == (b"q%d" % (row // items), long, *[b"%d" % (row % items)] * 2)
            assert (int(place), int(score)) == (row % items + 1, items - row % items)
            row += 1
    assert row == count
