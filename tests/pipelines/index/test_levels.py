"""An index of narrow vectors with wider ones beside it: built, killed, opened, refused; what is found through it."""

from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipelines.index import candidates
from pipelines.index.job import run
from pipelines.index.levels import open_coarse_to_fine
from pipelines.index.plan import plan_index
from pipelines.index.search import open_index
from pipelines.index.tune import read_tuning
from schemas.commits import encode_json
from schemas.configs import Index, parse
from schemas.errors import ConfigError, IndexBuildError, InputError
from schemas.manifests import IndexManifest
from schemas.parquet import read_table

COLUMNS = ("embedding_4", "embedding_8", "embedding")


@pytest.fixture
def levels_world(make):
    return make(coarse=(4, 8), key="auto")


def built(world, **settings):
    return run(world.with_index(**settings), world.parts, world.queries_url)


def two_level_search(world, k: int, shortlist: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The oracle: every level sorted whole, in float64 rounded to float32."""
    scores, ids = [], []
    levels = [*world.coarse.values(), world.vectors]
    queries = [*world.coarse_queries.values(), world.queries]
    for number in range(len(world.queries)):
        kept = np.argsort(world.ids)
        for items, texts, count in zip(levels, queries, [*(max(n, k) for n in shortlist), k], strict=True):
            found = (items[kept].astype(np.float64) @ texts[number].astype(np.float64)).astype(np.float32)
            order = np.lexsort((world.ids[kept], -found))[:count]
            kept, found = kept[order], found[order]
        scores.append(found)
        ids.append(world.ids[kept])
    return np.array(scores), np.array(ids)


def test_an_encoder_with_levels_is_searched_through_them_by_default(levels_world):
    plan = plan_index(levels_world.job, levels_world.parts, levels_world.queries_url)
    assert (plan.levels, plan.dims, plan.dim) == (COLUMNS, (4, 8, 16), 4)
    same = plan_index(levels_world.with_index(levels="coarse_to_fine"), levels_world.parts, levels_world.queries_url)
    assert same == plan
    flat = plan_index(levels_world.with_index(levels="finest"), levels_world.parts, levels_world.queries_url)
    assert (flat.levels, flat.dims) == (("embedding",), (16,))
    assert flat.digest != plan.digest


def test_without_levels_the_index_has_the_name_it_always_had(world):
    plan = plan_index(world.job, world.parts, world.queries_url)
    assert plan.levels == ("embedding",)
    assert plan_index(world.with_index(levels="finest"), world.parts, world.queries_url).digest == plan.digest
    for settings in ({"levels": "coarse_to_fine"}, {"shortlist": (50,)}):
        with pytest.raises(ConfigError, match="the encoder has one level"):
            plan_index(world.with_index(**settings), world.parts, world.queries_url)
    manifest = Path(built(world)).read_text()
    assert "levels" not in manifest


def test_settings_that_make_no_sense_are_refused(levels_world):
    with pytest.raises(ConfigError, match="expected 2 numbers, one for each of embedding_4, embedding_8, got"):
        built(levels_world, shortlist=(50,))
    with pytest.raises(ConfigError, match="expected numbers that fall"):
        parse(Index, {"shortlist": [10, 50]}, source="test")
    with pytest.raises(ConfigError, match="there is none where levels is 'finest'"):
        parse(Index, {"shortlist": [50], "levels": "finest"}, source="test")


def test_parts_that_lack_a_level_are_refused(levels_world, part_writer):
    eye = np.eye(16, dtype=np.float32)
    other = part_writer(levels_world.job.layout, "x", eye, coarse={"embedding_4": eye[:4, :4].repeat(4, axis=0)})
    with pytest.raises(InputError, match="column embedding_8: width None"):
        plan_index(levels_world.job, [*levels_world.parts, other], levels_world.queries_url)
    bad = 2 * eye[:, :8]
    bad = part_writer(
        levels_world.job.layout, "y", eye, coarse={"embedding_4": eye[:4, :4].repeat(4, 0), "embedding_8": bad}
    )
    with pytest.raises(InputError, match="y-0: column embedding_8"):
        run(levels_world.job, [*levels_world.parts, bad], levels_world.queries_url)


def test_the_files_beside_the_index_hold_every_row_in_the_order_of_the_ids(levels_world):
    url = built(levels_world)
    folder, manifest = Path(url).parent, IndexManifest.read(url)
    order = np.argsort(levels_world.ids)
    np.testing.assert_array_equal(np.load(folder / "ids.npy"), levels_world.ids[order])
    middle, finest = (np.load(folder / entry.name) for entry in manifest.segments[0].vectors)
    np.testing.assert_array_equal(middle, levels_world.coarse["embedding_8"][order])
    np.testing.assert_array_equal(finest, levels_world.vectors[order])
    assert middle.dtype == finest.dtype == np.float32
    assert (manifest.levels.columns, manifest.levels.dims) == (COLUMNS, (4, 8, 16))
    assert (manifest.levels.macs, manifest.levels.flat_macs) == (
        600 * 4 + manifest.levels.shortlist[0] * 8 + manifest.levels.shortlist[1] * 16,
        600 * 16,
    )
    assert manifest.dim == open_index(url).index.d == 4


def test_killed_before_the_manifest_the_next_run_leaves_the_same_bytes(levels_world, monkeypatch):
    def killed(self, url):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(IndexManifest, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            built(levels_world)
    folder = next(Path(levels_world.job.layout.root).glob("indexes/toy/*"))

    def contents() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in ("timings.json", "manifest.json")}

    half = contents()
    assert set(half) == {"index.faiss", "tuning.json", "truth.npz", "ids.npy", "embedding_8.npy", "embedding.npy"}
    url = run(levels_world.job, levels_world.parts[::-1], levels_world.queries_url)
    assert contents() == half
    assert Path(url).read_bytes() == encode_json(IndexManifest.read(url).model_dump(mode="json"))


def test_candidates_are_the_whole_sort_at_each_level(levels_world):
    job = levels_world.with_index(key="Flat", shortlist=(120, 40), recall_target=0.5)
    index = run(job, levels_world.parts, levels_world.queries_url)
    table = read_table(
        candidates.run(job, levels_world.parts, index, levels_world.queries_url).replace(
            "manifest.json", "candidates.parquet"
        )
    )
    scores, ids = two_level_search(levels_world, 12, (120, 40))
    assert table["item_id"].to_pylist() == ids.reshape(-1).tolist()
    np.testing.assert_array_equal(table["fast_score"].to_numpy(), scores.reshape(-1))
    assert table["rank"].to_pylist() == list(range(1, 13)) * 200


def test_both_recalls_are_those_of_searches_done_by_hand(levels_world, oracle):
    job = levels_world.with_index(key="IVF16,Flat", shortlist=(120, 40), recall_target=0.6)
    url = run(job, levels_world.parts, levels_world.queries_url)
    tuning, _ = read_tuning(url)
    manifest, fit = IndexManifest.read(url), levels_world.split == "fit"
    searcher = open_index(url)
    through = open_coarse_to_fine(url, searcher)
    queries = [*levels_world.coarse_queries.values(), levels_world.queries]

    def recall(found: np.ndarray, items: np.ndarray, texts: np.ndarray) -> float:
        _, best = oracle(levels_world.ids, items, texts, 10)
        return np.mean([len({*a} & {*b}) / 10 for a, b in zip(best.tolist(), found.tolist(), strict=True)])

    for rows, expected in ((fit, tuning.recall), (~fit, tuning.held_out.recall)):
        found = through.search([texts[rows] for texts in queries], 10)[1]
        assert expected == pytest.approx(recall(found, levels_world.vectors, levels_world.queries[rows]), abs=1e-6)
    coarse, texts = levels_world.coarse["embedding_4"], levels_world.coarse_queries["embedding_4"][fit]
    alone = recall(searcher.search(texts, 10)[1], coarse, texts)
    assert tuning.levels.coarse_recall == pytest.approx(alone, abs=1e-6)
    assert (manifest.recall, manifest.levels.coarse_recall) == (tuning.recall, tuning.levels.coarse_recall)
    assert tuning.recall >= 0.6
    assert tuning.levels.shortlist_from == "config"
    chosen = next(m for m in tuning.curve if m.parameters == tuning.chosen)
    assert chosen.coarse_recall == tuning.levels.coarse_recall
    assert all(m.cost_bytes > 120 * 8 * 4 + 40 * 16 * 4 for m in tuning.curve)


def test_a_default_shortlist_grows_until_the_recall_is_within_reach(levels_world, oracle):
    url = built(levels_world, recall_target=0.99)
    tuning, _ = read_tuning(url)
    assert tuning.recall >= 0.99
    assert tuning.levels.shortlist_from == "grown"
    assert tuning.levels.shortlist[0] in (120, 240, 480, 600)
    easy, _ = read_tuning(built(levels_world, recall_target=0.2))
    assert (easy.levels.shortlist, easy.levels.shortlist_from) == ((60, 12), "default")


def test_a_shortlist_of_ones_own_is_kept_and_named_when_it_binds(levels_world):
    with pytest.raises(IndexBuildError, match=r"index\.shortlist \[20, 10\] of 600 items is too short") as error:
        built(levels_world, shortlist=(20, 10))
    assert "at its own level (embedding_4)" in str(error.value)


def test_fewer_items_than_the_shortlist_are_all_given(make):
    world = make(rows=6, queries=60, coarse=(4,), key="Flat")
    index = run(world.job, world.parts, world.queries_url)
    manifest = IndexManifest.read(index)
    assert (manifest.levels.shortlist, manifest.recall) == ((6,), 1.0)
    url = candidates.run(world.job, world.parts, index, world.queries_url)
    assert read_table(url.replace("manifest.json", "candidates.parquet")).num_rows == 60 * 6


def test_compressed_coarse_codes_cost_recall_that_is_counted(levels_world):
    job = levels_world.with_index(key="IVF4,PQ2x4", recall_target=0.3, shortlist=(150, 60))
    tuning, _ = read_tuning(run(job, levels_world.parts, levels_world.queries_url))
    assert tuning.levels.coarse_recall < 0.9
    assert 0.3 <= tuning.recall < 1


def test_a_file_that_is_missing_or_damaged_is_named(levels_world):
    url = built(levels_world)
    file = Path(url).with_name("embedding.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="its manifest says"):
        open_coarse_to_fine(url, open_index(url))
    file.write_bytes(b"x" * len(whole))
    with pytest.raises(InputError, match="beside the index"):
        open_coarse_to_fine(url, open_index(url))
    file.unlink()
    with pytest.raises(InputError, match="not found, though its manifest is there"):
        open_coarse_to_fine(url, open_index(url))


def test_vectors_are_mapped_and_not_read_when_opened(levels_world):
    url = built(levels_world)
    through = open_coarse_to_fine(url, open_index(url))
    for vectors in through.levels.vectors:
        assert isinstance(vectors.base, np.memmap)
        assert not vectors.flags.writeable


def test_a_remote_index_brings_its_levels_along(levels_world, tmp_path):
    url = built(levels_world)
    remote = f"memory://levels-{tmp_path.name}"
    for path in Path(url).parent.iterdir():
        with fsspec.open(f"{remote}/{path.name}", "wb") as stream:
            stream.write(path.read_bytes())
    near = open_coarse_to_fine(url, open_index(url))
    far = open_coarse_to_fine(remote, open_index(remote, cache=tmp_path / "c"), cache=tmp_path / "c")
    queries = [*levels_world.coarse_queries.values(), levels_world.queries]
    for a, b in zip(near.search(queries, 5), far.search(queries, 5), strict=True):
        np.testing.assert_array_equal(a, b)
    assert open_coarse_to_fine(url, open_index(url)) is not None


def test_an_index_of_the_finest_level_has_nothing_beside_it(levels_world):
    url = built(levels_world, levels="finest")
    assert open_coarse_to_fine(url, open_index(url)) is None
    assert not Path(url).with_name("embedding.npy").exists()
    assert IndexManifest.read(url).levels is None
