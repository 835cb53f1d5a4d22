"""Each gate lets pass what is at its limit and refuses what is beyond; of real generations of a small dataset."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.evaluate import job as evaluate
from pipelines.evaluate.report import run as write_report
from pipelines.reindex import gates, publish
from pipelines.reindex.history import generations, rollback
from pipelines.rerank import job as rerank
from schemas import rejects
from schemas.errors import GateError, InputError
from schemas.manifests import EmbeddingManifest, Generation
from schemas.parquet import entry, write_table
from schemas.rejects import Reject

FIELDS = {"schema_version", "kind", "number", "parent", "created"}


@pytest.fixture
def world(published_levels_world, monkeypatch):
    """Its model is known to this process alone."""
    monkeypatch.setattr(gates, "run_apart", lambda function, *arguments: function(*arguments))
    return published_levels_world


def candidate(world, *, publish_config: dict | None = None, **changes) -> Generation:
    """Generation 2: that of the fixture, with some of its fields or of its limits changed."""
    first = Generation.read(world.layout.generation(1))
    fields = {name: getattr(first, name) for name in Generation.model_fields if name not in FIELDS}
    config = fields["config"] | {"publish": publish_config or {}}
    return publish.write_generation(world.layout, fields | {"content": "d", "config": config} | changes, parent=1)


def judged(world, generation: Generation) -> dict[str, tuple[bool, str]]:
    gates.judge(world.layout, generation.number)
    results = gates.read_results(world.layout, generation.number)
    return {one.gate: (one.passed, " | ".join([one.said, *one.examples])) for one in results.gates}


def worse_rankings(world) -> str:
    """Those of the same candidates with the order turned round."""
    made = world.world
    url = rerank.run(made.with_settings(rerank__beta=-9.0), made.plan, made.candidates, made.queries, lanes=1)
    index = f"{world.layout.root}/{world.generation.index}"
    evaluate.run(made.job, made.plan, index, made.queries, url)
    return url.removeprefix(f"{world.layout.root}/")


def test_a_good_generation_passes_them_all_and_is_judged_once(world):
    canary = {"query": "colour 40c060", "key": first_answer(world, "colour 40c060"), "k": 1}
    limits = {"canaries": [canary], "max_index_size": "1GB", "max_latency_ms": 60_000}
    made = candidate(world, publish_config=limits)
    found = judged(world, made)
    assert list(found) == [
        *("ledger", "rejects", "shards", "recall"),
        *(f"quality {name}" for name in ("R@1", "R@5", "R@10", "nDCG@10")),
        *("size", "latency", "canaries"),
    ]
    assert all(passed for passed, _ in found.values())
    assert "60 samples = 60 embedded + 0 rejected; the index holds 60" in found["ledger"][1]
    assert "R@1 changed by +0.0 points (+0.0 to +0.0)" in found["quality R@1"][1]
    gates.refuse(gates.read_results(world.layout, 2), "page")
    before = Path(world.layout.gates(2)).read_bytes()
    gates.judge(world.layout, 2)
    assert Path(world.layout.gates(2)).read_bytes() == before
    assert "Gates" in Path(write_report(world.layout, made)).read_text("utf-8")


def first_answer(world, text: str) -> str:
    from pipelines.search import open_generation

    return open_generation(world.layout, 1).answer(text, 1)[0].key


def test_the_first_generation_is_compared_with_none(world):
    assert list(judged(world, Generation.read(world.layout.generation(1)))) == ["ledger", "rejects", "shards", "recall"]


@pytest.mark.parametrize(
    ("limits", "gate", "message"),
    [
        ({"max_index_size": "1KB"}, "size", r"the index is .*, publish\.max_index_size is 1KB"),
        ({"max_latency_ms": 1e-6}, "latency", r"takes .* ms, publish\.max_latency_ms is 1e-06"),
        ({"canaries": [{"query": "colour 40c060", "key": "nothing"}]}, "canaries", "0 of 1 canary queries"),
    ],
)
def test_a_limit_refuses_by_name_and_figure(world, limits, gate, message):
    found = judged(world, candidate(world, publish_config=limits))
    assert [name for name, (passed, _) in found.items() if not passed] == [gate]
    with pytest.raises(GateError, match=f"(?s)generation 2 of colours is refused.*{gate}: .*{message}.*page.html"):
        gates.refuse(gates.read_results(world.layout, 2), "page.html")


def test_a_fall_that_is_no_chance_is_refused_with_the_queries_that_fell(world):
    worse = worse_rankings(world)
    found = judged(world, candidate(world, rankings=worse))
    passed, said = found["quality R@1"]
    assert not passed
    assert "over 24 queries since generation 1, publish.max_drop is 0.05 | “colour " in said
    assert "rank 1 -> " in said


def test_a_fall_within_what_is_allowed_passes(world):
    found = judged(world, candidate(world, rankings=worse_rankings(world), publish_config={"max_drop": 1.0}))
    assert found["quality R@1"][0]
    assert found["quality nDCG@10"][0]


def test_counts_that_do_not_add_up_are_refused(world):
    more = world.generation.counts.model_copy(update={"seen": 61, "embedded": 61, "images": 57})
    assert not judged(world, candidate(world, counts=more))["ledger"][0]


def test_a_recall_below_the_target_is_refused(world):
    config = world.generation.config
    config = config | {"index": config["index"] | {"recall_target": 1.0}}
    passed, said = judged(world, candidate(world, config=config))["recall"]
    assert not passed
    assert "index.recall_target is 1" in said


def with_rejects(world, positions: list[int], message: str = "no picture") -> None:
    """The second shard, of 20 samples, as if these of it had been refused."""
    url = f"{world.layout.root}/{world.generation.embeddings[1]}"
    part = EmbeddingManifest.read(url)
    refusals = [
        Reject(key=f"bad{row}", shard="colours-1.tar", position=row, offset=0, size=3, stage="decode",
               error="NotAnImage", message=message)
        for row in positions
    ]  # fmt: skip
    with write_table(part.rejects.url(url), rejects.SCHEMA) as writer:
        rows = rejects.to_table(refusals)
        writer.write({name: rows.column(name).combine_chunks() for name in rows.column_names})
    lost = len(positions)
    counts = part.counts.model_copy(update={"embedded": 20 - lost, "rejected": lost, "images": 19 - lost})
    changed = part.model_copy(update={"counts": counts, "rejects": entry(part.rejects.url(url))})
    Path(url).unlink()
    changed.commit(url)


@pytest.mark.parametrize(("rejected", "refused"), [(2, False), (4, False), (5, True)])
def test_one_bad_shard_is_seen_among_many_good_ones(world, rejected, refused):
    """Of 20 samples of a shard 4 may be refused; in the whole that is little."""
    with_rejects(world, list(range(rejected)))
    passed, said = judged(world, candidate(world))["rejects"]
    assert passed is not refused
    assert ("5 of 20 samples of colours-1.tar are refused (25.0%)" in said) is refused
    assert ("colours-1.tar: 5 NotAnImage, as bad0: no picture" in said) is refused


@pytest.mark.parametrize(("allowed", "refused"), [(0, True), (1, False)])
def test_a_shard_that_breaks_off_is_refused_however_few_its_rejects(world, allowed, refused):
    with_rejects(world, [-1], "colours-1.tar: a header is cut")
    found = judged(world, candidate(world, publish_config={"max_broken_shards": allowed}))
    assert found["rejects"][0]
    passed, said = found["shards"]
    assert passed is not refused
    assert "1 shards break off before their end" in said
    assert "colours-1.tar: a header is cut" in said


def test_a_refused_one_is_listed_shown_and_not_gone_back_to(world):
    made = candidate(world, publish_config={"max_index_size": "1KB"})
    judged(world, made)
    assert [(one.number, one.served, one.refused) for one in generations(world.layout)] == [
        (2, False, True),
        (1, True, False),
    ]
    with pytest.raises(InputError, match="generation 2 was refused by a gate, see .*000002.*reindex"):
        rollback(world.layout, 2)
    page = Path(write_report(world.layout, made)).read_text("utf-8")
    assert "this generation is not served" in page
    done = CliRunner().invoke(app, ["generations", "colours", "--root", world.layout.root])
    assert "refused" in done.output


def test_a_parent_this_program_cannot_read_is_no_reason_to_stop(world):
    made = candidate(world)
    first = Generation.read(world.layout.generation(1))
    Path(world.layout.generation(1)).unlink()
    first.model_copy(update={"config": first.config | {"unknown": 1}}).commit(world.layout.generation(1))
    assert list(judged(world, made)) == ["ledger", "rejects", "shards", "recall"]
