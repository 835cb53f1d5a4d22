"""Compressed vectors in the index, whole ones beside it: what is promised, found, served and said."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.index import candidates
from pipelines.index.job import run
from pipelines.index.levels import open_coarse_to_fine, through
from pipelines.index.search import format_point, open_index, parse_point
from pipelines.index.tune import read_tuning
from schemas.configs import Index, parse
from schemas.errors import ConfigError, IndexBuildError, InputError
from schemas.manifests import IndexManifest
from schemas.parquet import read_table

HARSH = "IVF8,PQ4x4"


@pytest.fixture
def built(world):
    """URL of the manifest of a refined index."""
    return run(world.with_index(key=HARSH, refine=True), world.parts, world.queries_url)


def test_a_target_out_of_reach_of_the_codes_is_met(world, built, oracle):
    with pytest.raises(IndexBuildError, match=r"What would help: index\.refine=true"):
        run(world.with_index(key=HARSH), world.parts, world.queries_url)
    manifest = IndexManifest.read(built)
    assert manifest.recall >= manifest.recall_target
    assert manifest.levels.refined
    assert manifest.levels.coarse_recall < manifest.recall_target
    searcher = open_index(built)
    through = open_coarse_to_fine(built, searcher)
    asked = world.queries[world.split == "fit"]
    scores, ids = through.search([asked, asked], 10)
    exact_scores, exact = oracle(world.ids, world.vectors, asked, 10)
    found = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, exact, strict=True)])
    assert found == pytest.approx(manifest.recall, abs=0.002)
    whole = {item: vector for item, vector in zip(world.ids, world.vectors, strict=True)}
    expected = [[asked[q] @ whole[item] for item in row] for q, row in enumerate(ids)]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_the_cheapest_of_all_points_and_shortlists_is_chosen(built):
    tuning, times = read_tuning(built)
    good = [one for one in tuning.curve if one.recall >= tuning.recall_target]
    cheapest = min(good, key=lambda one: one.cost_bytes)
    assert (tuning.chosen, tuning.chosen_label) == (cheapest.parameters, cheapest.label)
    assert tuning.levels.shortlist == cheapest.shortlist
    assert tuning.levels.shortlist_from == "tuned"
    assert len({one.shortlist for one in tuning.curve}) == 3
    assert set(times) == {one.label for one in tuning.curve}
    assert parse_point(tuning.chosen)["nprobe"] >= 1
    assert cheapest.label == f"{format_point(parse_point(tuning.chosen))},shortlist={cheapest.shortlist[0]}"


def test_where_more_answers_are_wanted_more_are_looked_at(world, built):
    through = open_coarse_to_fine(built, open_index(built))
    factor = -(-through.shortlist[0] // 10)
    asked = []
    wide = type(through)(
        lambda queries, k: asked.append(k) or through.first(queries, k), through.levels, through.shortlist, factor
    )
    wide.search([world.queries[:2]] * 2, 30)
    assert asked == [30 * factor]


def test_candidates_and_a_rerun(world, built):
    job = world.with_index(key=HARSH, refine=True)
    before = {path: path.read_bytes() for path in Path(built).parent.iterdir()}
    assert run(job, world.parts, world.queries_url) == built
    assert {path: path.read_bytes() for path in Path(built).parent.iterdir()} == before
    url = candidates.run(job, world.parts, built, world.queries_url)
    table = read_table(f"{Path(url).parent}/candidates.parquet")
    assert table.num_rows == 12 * len(world.queries)


def test_the_whole_vectors_are_stored_as_the_parts_store_them(world, built):
    order = np.argsort(world.ids)
    stored = np.load(Path(built).parent / "embedding.npy")
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored.astype(np.float32), world.vectors[order])


def test_a_lost_file_of_whole_vectors_is_an_error(built):
    (Path(built).parent / "embedding.npy").unlink()
    with pytest.raises(InputError, match=r"embedding\.npy"):
        open_coarse_to_fine(built, open_index(built))


def test_no_point_says_it_looks_at_fewer_items_than_its_shortlist(built):
    tuning, _ = read_tuning(built)
    assert all(parse_point(one.parameters)["nprobe"] * 600 / 8 >= one.shortlist[0] for one in tuning.curve)


def test_a_shortlist_of_ones_own_is_kept_or_refused_with_the_way_out(world):
    with pytest.raises(ConfigError, match=r"expected one number, got \[50, 10\]"):
        run(world.with_index(key=HARSH, refine=True, shortlist=(50, 10)), world.parts, world.queries_url)
    with pytest.raises(IndexBuildError, match=r"refined: .* index\.shortlist \[12\] of 600 items is too short"):
        run(world.with_index(key=HARSH, refine=True, shortlist=(12,)), world.parts, world.queries_url)
    url = run(world.with_index(key=HARSH, refine=True, shortlist=(300,)), world.parts, world.queries_url)
    assert IndexManifest.read(url).levels.shortlist == (300,)


def test_refining_what_is_whole_already_is_said(world, caplog):
    run(world.with_index(key="IVF16,Flat", refine=True), world.parts, world.queries_url)
    assert "IVF16,Flat keeps whole vectors already" in caplog.text


def test_it_excludes_coarse_to_fine():
    with pytest.raises(ConfigError, match="refine: coarse to fine orders by whole vectors already"):
        parse(Index, {"refine": True, "levels": "coarse_to_fine"}, source="test")


def test_the_curve_says_what_a_search_with_each_shortlist_finds(world, built, oracle):
    tuning, _ = read_tuning(built)
    searcher = open_index(built)
    levels = open_coarse_to_fine(built, searcher).levels
    asked = world.queries[world.split == "fit"]
    _, exact = oracle(world.ids, world.vectors, asked, 10)
    for one in tuning.curve:
        search = through(searcher, levels, one.shortlist, parse_point(one.parameters))
        _, ids = search.search([asked, asked], 10)
        found = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), exact.tolist(), strict=True)])
        # A search goes on where the lists hold too little; the curve does not count that.
        assert one.recall <= found + 1e-3
        assert one.recall == pytest.approx(found, abs=0.02)
    at = next(
        one for one in tuning.curve if (one.parameters, one.shortlist) == (tuning.chosen, tuning.levels.shortlist)
    )
    assert tuning.recall >= at.recall >= tuning.recall_target
