"""Refused samples tried again: what has become readable is published, what has not changes nothing."""

import pytest
import yaml

from pipelines.embed import encoding
from pipelines.reindex import job as reindex
from pipelines.reindex import publish
from pipelines.reindex.history import generations
from pipelines.reindex.summary import Step


@pytest.fixture
def failing(monkeypatch) -> set[bytes]:
    """Pictures whose decoding fails for now."""
    honest, contents = encoding.decode, set()

    def flaky(data, **given):
        if data in contents:
            raise encoding.SampleError("the disk has hiccups")
        return honest(data, **given)

    monkeypatch.setattr(encoding, "decode", flaky)
    monkeypatch.setattr(reindex, "run_apart", lambda function, *arguments: function(*arguments))
    return contents


@pytest.fixture
def job(published_world, tmp_path, failing):
    colours = published_world.module
    names = colours.colours(60)
    failing.update(colours.picture(names[row]) for row in (0, 3, 4))
    model = tmp_path / "colour.yaml"
    model.write_text(yaml.safe_dump({"path": str(tmp_path / "world" / "model"), "dtype": "float32"}))
    settings = {"encoder": str(model), "scorer": str(model), "index": {"recall_target": 0.5}}
    job = colours.make_world(tmp_path / "world", items=60, depth=10, **settings).job
    assert reindex.run(job).counts.rejected == 3
    return job


def test_what_is_readable_again_is_published_and_nothing_else_is_encoded(job, failing):
    [step] = reindex.plan_replay(job)
    assert (step.state, step.detail) == ("to do", "3 refused samples of 2 shards")
    failing.clear()
    summary = reindex.replay(job)
    assert (summary.published, summary.counts.embedded, summary.counts.rejected) == (2, 60, 0)
    assert publish.served(job.layout).embeddings[0].endswith(".again1.json")
    assert reindex.plan_replay(job) == [Step("embed", "done", "no sample was refused")]
    again = reindex.run(job)
    assert (again.published, again.generation) == (None, 2)


def test_what_still_fails_changes_nothing(job):
    assert reindex.replay(job).published is None
    assert [one.number for one in generations(job.layout)] == [1]
