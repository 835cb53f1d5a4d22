"""A generation that is as it was published passes; of each damage the check that looks for it fails, and says where."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.embed import job as embed
from pipelines.index import job as index
from pipelines.index.plan import Base
from pipelines.reindex import named, publish, sampled, verify
from schemas.commits import encode_json
from schemas.configs import Append
from schemas.embeddings import part_url, read_parts
from schemas.errors import InputError
from schemas.jobs import Job
from schemas.layout import Layout
from schemas.manifests import Counts, EmbeddingManifest, FileEntry, Generation, IndexManifest, embedding_set_digest

CHECKS = ["manifests", "files", "agreement", "ids", "pictures", "vectors", "self-retrieval"]


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """The colour model is registered in this process alone; tests/test_end_to_end.py has the real boundary."""
    monkeypatch.setattr(verify, "run_apart", lambda function, *arguments: function(*arguments))


@pytest.fixture
def job(published_world, tmp_path) -> Job:
    """The job of a published world of our own, to be spoilt: all files copied, and what names them."""
    before, after = Path(published_world.layout.root).parents[1], tmp_path / "copied"
    shutil.copytree(before, after)
    for path in [*after.rglob("*.json"), *after.rglob("*.yaml")]:
        path.write_text(path.read_text().replace(str(before), str(after)))
    made = published_world.world.job
    layout = Layout(published_world.layout.root.replace(str(before), str(after)), made.layout.dataset)
    shards = tuple(shard.replace(str(before), str(after)) for shard in published_world.world.shards)
    model = made.encoder.model_copy(update={"path": made.encoder.path.replace(str(before), str(after))})
    dataset = made.dataset.model_copy(update={"shards": shards})
    return replace(made, layout=layout, dataset=dataset, encoder=model, scorer=model)


def served(layout: Layout) -> Generation:
    found = publish.served(layout)
    assert found is not None
    return found


def failures(layout: Layout, items: int = 60) -> dict[str, verify.Check]:
    found = verify.run(layout, served(layout), items=items)
    return {check.name: check for check in found.checks if check.state == "FAILED"}


def only(failed: dict[str, verify.Check], name: str) -> str:
    """All that one check has to say, being the only one that failed."""
    assert list(failed) == [name], failed
    assert failed[name].remedy
    return "\n".join(failed[name].problems)


def files(root: str) -> dict[str, bytes]:
    """All below a root but memos."""
    found = (path for path in Path(root).rglob("*") if path.is_file() and "cache" not in path.parts)
    return {str(path): path.read_bytes() for path in found}


def flip(path: str | Path, at: int) -> None:
    data = bytearray(Path(path).read_bytes())
    data[at] ^= 1
    Path(path).write_bytes(data)


def rewrite(url: str, **changes: object) -> None:
    """A manifest with other values, as if it had been written so."""
    value = json.loads(Path(url).read_text())
    Path(url).write_bytes(encode_json(value | json.loads(json.dumps(changes, default=lambda one: one.model_dump()))))


def without_rankings(layout: Layout, **changes: object) -> str:
    """The generation's manifest with parts and index alone, so that nothing else has to agree; URL of the index's."""
    url = layout.generation(served(layout).number)
    rewrite(url, candidates=None, rankings=None, **changes)
    return f"{layout.root}/{served(layout).index}"


@pytest.mark.parametrize("world", ["published_world", "published_levels_world"])
def test_what_is_as_it_was_published_passes_and_nothing_is_written(world, request):
    layout = request.getfixturevalue(world).layout
    before = files(layout.root)
    found = verify.run(layout, served(layout), items=60)
    assert [(check.name, check.state) for check in found.checks] == [(name, "ok") for name in CHECKS]
    figures = {check.name: check.figure for check in found.checks}
    assert figures["ids"] == "60 items"
    assert figures["pictures"] == "60 of 60 as they were embedded"
    assert figures["vectors"] == "60 encoded again, cosine 1.0000 or more"
    assert figures["self-retrieval"] == "60 of 60 among the first 10, 60 expected"
    found.refuse()
    assert files(layout.root) == before


def test_every_file_of_a_generation_is_looked_at(job):
    layout = job.layout
    found, unreadable = named.manifests(layout, served(layout))
    looked_at = {layout.generation(1), *found, *named.entries(found), *named.measured(layout, served(layout))}
    assert unreadable == []
    assert looked_at == named.named(layout, served(layout))
    others = {path for path in files(layout.root) if path not in looked_at}
    kinds = {Path(path).relative_to(layout.root).parts[0] for path in others}
    exports = {Path(path).name for path in others if "/rankings/" in path}
    partials = {Path(path).name for path in others if "/trained/" in path}
    assert kinds <= {"scores", "rankings", "trained", "candidates", "reports", "CURRENT"}
    assert exports == {"run.trec", "qrels.trec"}
    assert "trained.faiss" not in partials
    # exhaustive candidates of the world's own making, which no generation names
    assert all("0010" in path for path in others if "/candidates/" in path)


@pytest.mark.parametrize(
    "pattern", ["embeddings/*/*/*.rejects.parquet", "queries/*/*.parquet", "indexes/*/*/truth.npz"]
)
def test_one_byte_of_a_data_file_is_noticed(job, pattern):
    path = sorted(Path(job.layout.root).glob(pattern))[0]
    flip(path, path.stat().st_size // 2)
    said = only(failures(job.layout), "files")
    assert said.startswith(f"{path}: SHA-256 is ")


def test_whatever_file_is_spoilt_the_files_are_not_ok(job):
    found, _ = named.manifests(job.layout, served(job.layout))
    for url, (_, manifest) in named.entries(found).items():
        whole = Path(url).read_bytes()
        flip(url, len(whole) // 2)
        assert url in "".join(failures(job.layout, items=0)["files"].problems)
        Path(url).write_bytes(whole[:-1])
        assert f"{len(whole) - 1} bytes, {manifest} says {len(whole)}" in str(failures(job.layout, items=0)["files"])
        Path(url).unlink()
        assert f"{url}: gone, {manifest} names it" in failures(job.layout, items=0)["files"].problems
        Path(url).write_bytes(whole)
    for url in named.measured(job.layout, served(job.layout)):
        whole = Path(url).read_bytes()
        Path(url).write_bytes(whole[:-9])
        assert "not JSON" in only(failures(job.layout, items=0), "files")
        Path(url).write_bytes(whole)
    assert failures(job.layout, items=0) == {}


def test_a_spoilt_part_is_made_again_as_the_way_out_says(job):
    [url, *_] = embed.run(job, job.dataset.shards).manifests
    data = part_url(url, EmbeddingManifest.read(url))
    flip(data, Path(data).stat().st_size // 2)
    failed = failures(job.layout, items=0)
    assert "remove the manifest named" in failed["files"].remedy
    Path(url).unlink()
    embed.run(job, job.dataset.shards)
    assert failures(job.layout) == {}


@pytest.mark.parametrize("kind", ["embeddings", "queries", "index", "candidates", "rankings"])
def test_a_manifest_that_is_gone_or_damaged_leaves_the_rest_to_be_looked_at(job, kind):
    value = getattr(served(job.layout), kind)
    path = Path(job.layout.root, value[0] if kind == "embeddings" else value)
    whole = path.read_text()
    for spoil, said in ((path.unlink, "not found"), (lambda: path.write_text(whole[:40]), "not JSON")):
        spoil()
        found = verify.run(job.layout, served(job.layout), items=5)
        states = {check.name: check.state for check in found.checks}
        assert states == dict.fromkeys(CHECKS, "not run") | {"manifests": "FAILED", "files": "ok"}
        assert str(path) in found.checks[0].problems[0]
        assert said in found.checks[0].problems[0]


def test_manifests_that_do_not_agree_are_named_with_both_sides(job):
    layout = job.layout
    counts = served(layout).counts
    rewrite(layout.generation(1), counts=(counts + counts).model_dump())
    assert "generation: counts: seen=120" in only(failures(layout), "agreement")
    rewrite(layout.generation(1), counts=counts.model_dump())
    url = without_rankings(layout)
    built = IndexManifest.read(url)
    for changes, said in [
        ({"embeddings": "f" * 64}, "manifest.json: embeddings: ffff"),
        ({"queries": "f" * 64}, "manifest.json: queries: ffff"),
        ({"rows": 59}, "manifest.json: rows: 59, expected 60"),
        ({"encoder": "another"}, "manifest.json: encoder: another"),
    ]:
        rewrite(url, **changes)
        assert said in "\n".join(failures(layout)["agreement"].problems)
        rewrite(url, **built.model_dump(mode="json"))
    [part, *_] = served(layout).embeddings
    manifest = EmbeddingManifest.read(f"{layout.root}/{part}")
    rewrite(f"{layout.root}/{part}", rejects=manifest.rejects.model_copy(update={"rows": 7}))
    assert "rejects: 7, expected 0" in only(failures(layout), "agreement")
    rewrite(f"{layout.root}/{part}", encoder="another")
    assert "encoder: another" in "\n".join(failures(layout)["agreement"].problems)


def test_candidates_of_another_index_are_noticed(job):
    rewrite(f"{job.layout.root}/{served(job.layout).candidates}", index="f" * 64)
    said = only(failures(job.layout), "agreement")
    assert "manifest.json: index: ffff" in said
    assert "manifest.json: candidates: " in said


def test_a_shard_that_is_gone_is_said_of_its_items(job):
    gone = job.dataset.shards[1]
    Path(gone).unlink()
    failed = failures(job.layout)
    said = only(failed, "pictures")
    assert said.count(f"its shard {gone} is gone") == 20
    assert failed["pictures"].figure == "40 of 60 as they were embedded"
    assert "fastslow reindex colours" in failed["pictures"].remedy
    for shard in (job.dataset.shards[0], job.dataset.shards[2]):
        Path(shard).unlink()
    assert failures(job.layout)["vectors"].problems == ("no picture could be read",)


def test_a_picture_that_was_changed_is_named(job):
    [row] = [
        (part.manifest.shard, row)
        for part in read_parts(parts_of(job.layout), ["key", "offset", "size"])
        for row in part.table.to_pylist()
        if row["key"] == "item017"
    ]
    flip(row[0], row[1]["offset"] + row[1]["size"] // 2)
    said = only(failures(job.layout), "pictures")
    assert said.startswith("item017: the bytes at offset")


def test_a_shard_that_was_cut_off_is_noticed(job):
    data = Path(job.dataset.shards[0]).read_bytes()
    Path(job.dataset.shards[0]).write_bytes(data[: len(data) // 2])
    assert "bytes at offset" in only(failures(job.layout), "pictures")


def parts_of(layout: Layout) -> list[str]:
    return [f"{layout.root}/{part}" for part in served(layout).embeddings]


def test_an_index_made_of_another_one_passes_with_what_is_new_and_what_is_deleted(job):
    layout, queries, parts = job.layout, f"{job.layout.root}/{served(job.layout).queries}", parts_of(job.layout)
    append = Append(max_unmerged=1, max_changed=1, max_error_ratio=99, max_imbalance_ratio=99)
    config = job.dataset.index.model_copy(update={"key": "IVF4,Flat", "append": append})
    job = replace(job, dataset=job.dataset.model_copy(update={"index": config}))
    base = Base(index.run(job, parts[:2], queries), tuple(parts[:2]))
    built = index.run(job, parts[1:], queries, base)
    manifest = IndexManifest.read(built)
    assert [segment.deleted for segment in manifest.segments] == [20, 0]
    manifests = [EmbeddingManifest.read(url) for url in parts[1:]]
    without_rankings(
        layout,
        embeddings=served(layout).embeddings[1:],
        embeddings_digest=embedding_set_digest(manifests),
        counts=sum((one.counts for one in manifests), Counts.zero()).model_dump(),
        index=built.removeprefix(f"{layout.root}/"),
    )
    found = verify.run(layout, served(layout), items=60)
    assert [(check.name, check.state) for check in found.checks] == [(name, "ok") for name in CHECKS]
    assert {check.name: check.figure for check in found.checks}["ids"] == "40 items"
    rewrite(built, tombstones=None)
    failed = failures(layout)
    assert f"{built}: tombstones: 0, expected 20" in failed["agreement"].problems
    assert failed["ids"].problems[0].startswith("20 items are in the index, in no part")


def test_swapped_ids_beside_the_index_are_noticed(job):
    layout = job.layout
    url = without_rankings(layout)
    [segment] = IndexManifest.read(url).segments
    path = Path(segment.ids.url(url))
    ids = np.load(path)
    np.save(path, ids[[1, 0, *range(2, len(ids))]])
    assert set(failures(layout)) == {"files", "ids"}
    rewrite(url, segments=[segment.model_copy(update={"ids": FileEntry.of(path, segment.ids.name, len(ids))})])
    assert only(failures(layout), "ids") == f"{path}: expected item ids that rise"
    np.save(path, np.sort(np.r_[ids[1:], ids.max() + 1]))
    rewrite(url, segments=[segment.model_copy(update={"ids": FileEntry.of(path, segment.ids.name, len(ids))})])
    said = only(failures(layout), "ids")
    assert f"1 items are in the parts, not in the index, the first of them {ids[0]}" in said
    assert f"1 items are in the index, in no part, the first of them {ids.max() + 1}" in said


def test_an_index_whose_items_have_each_others_ids_does_not_find_them(job):
    layout = job.layout
    url = without_rankings(layout)
    [segment] = IndexManifest.read(url).segments
    parts = list(read_parts(parts_of(layout), ["item_id"]))
    ids = np.concatenate([part.table.column("item_id").to_numpy() for part in parts])
    mixed = faiss.IndexIDMap2(faiss.IndexFlatIP(4))
    mixed.add_with_ids(np.concatenate([part.vectors for part in parts]), np.roll(ids, 23))
    path = Path(segment.lists.url(url))
    faiss.write_index(mixed, str(path))
    entry = FileEntry.of(path, segment.lists.name, len(ids))
    rewrite(url, segments=[segment.model_copy(update={"lists": entry})], parameters="")
    failed = failures(layout)
    said = only(failed, "self-retrieval")
    assert "not among the 10 that its vector finds" in said
    assert int(failed["self-retrieval"].figure.split()[0]) < 30


def test_vectors_that_stand_in_each_others_rows_are_noticed_though_all_else_agrees(job):
    layout, queries = job.layout, f"{job.layout.root}/{served(job.layout).queries}"
    [first, *others] = parts_of(layout)
    manifest = EmbeddingManifest.read(first)
    path = part_url(first, manifest)
    table = pq.read_table(path)
    place = table.schema.get_field_index("embedding")
    rolled = table.column("embedding").take(pa.array(np.roll(np.arange(table.num_rows), 7)))
    pq.write_table(table.set_column(place, table.schema.field("embedding"), rolled), path)
    rewrite(first, data=FileEntry.of(Path(path), path, table.num_rows))
    built = index.run(job, [first, *others], queries)
    digest = embedding_set_digest([EmbeddingManifest.read(url) for url in (first, *others)])
    without_rankings(layout, embeddings_digest=digest, index=built.removeprefix(f"{layout.root}/"))
    failed = failures(layout)
    assert "expected 0.99 or more" in only(failed, "vectors")
    assert len(failed["vectors"].problems) > 10


def test_another_model_in_the_place_of_the_encoder_is_noticed(job):
    flip(Path(job.encoder.path, "model.safetensors"), -1)
    assert "its fingerprint here is" in only(failures(job.layout), "vectors")


def test_a_part_that_cannot_be_read_leaves_the_sample_undrawn(job):
    [url, *_] = parts_of(job.layout)
    Path(part_url(url, EmbeddingManifest.read(url))).unlink()
    found = verify.run(job.layout, served(job.layout), items=5)
    states = {check.name: check.state for check in found.checks}
    assert states["pictures"] == "FAILED"
    assert states["vectors"] == states["self-retrieval"] == "not run"


def test_the_sample_is_drawn_by_its_seed_from_all_items_alike(published_world):
    parts = parts_of(published_world.layout)
    keys = [[item.key for item in sampled.draw(parts, 7, seed=seed).items] for seed in (1, 1, 2)]
    assert keys[0] == keys[1] != keys[2]
    assert len(sampled.draw(parts, 1000, seed=0).items) == 60
    met = {item.key for seed in range(60) for item in sampled.draw(parts, 7, seed=seed).items}
    assert len(met) == 60
    sample = sampled.draw(parts, 7, seed=3)
    for number, item in enumerate(sample.items):
        [(part, row)] = [
            (part, row)
            for part in read_parts(parts, ["item_id"])
            for row in np.flatnonzero(part.table.column("item_id").to_numpy() == item.item_id)
        ]
        assert part.manifest.shard == sample.shards[number]
        np.testing.assert_array_equal(part.vectors[row], sample.vectors["embedding"][number])


@given(st.floats(0.5, 1.0), st.integers(1, 200))
def test_the_share_that_must_be_found_is_the_tail_of_the_binomial(share, asked):
    found = sampled.fewest(share, asked)
    assert binom.cdf(found - 1, asked, share) <= sampled.CHANCE * (1 + 1e-9)
    assert found == asked or binom.cdf(found, asked, share) > sampled.CHANCE * (1 - 1e-9)
    assert sampled.fewest(1.0, asked) == asked


def test_the_command_prints_what_it_found_and_never_ends_well_after_a_failure(job):
    def run(*arguments: str):
        return CliRunner().invoke(app, ["verify", "colours", "--root", job.layout.root, *arguments])

    done = run("--items", "3", "--json", "--seed", "5")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["seed"], told["failed"], len(told["checks"])) == (5, [], 7)
    Path(job.dataset.shards[0]).unlink()
    done = run("--items", "60", "--json")
    assert done.exit_code == 1
    assert isinstance(done.exception, InputError)
    assert str(done.exception) == "generation 1 of colours is damaged: pictures"
    assert json.loads(done.stdout)["failed"] == ["pictures"]
    shown = run("--items", "60").stdout
    assert "FAILED" in shown
    assert "and 15 more" in shown
    assert run("--items", "0").exit_code == 0
