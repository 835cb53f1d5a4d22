"""Every claim has a way to be decided and a row on the page; measures run on a real small model."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines.claims import findings, gallery, trained
from pipelines.claims.findings import Finding, difference, not_tested
from pipelines.claims.job import run
from pipelines.claims.measured import MEASURES, Measured
from pipelines.claims.page import render
from pipelines.claims.papers import CLAIMS, SYSTEMS
from pipelines.claims.scores import open_checkpoint, score_all
from pipelines.cli import app
from pipelines.prepare.gallery import gallery_captions
from schemas.errors import ConfigError


def test_every_claim_is_decided_in_one_way():
    ways = [set(MEASURES), {"HV2"}, set(trained.CONTESTS), set(trained.SPECIAL)]
    assert sum(map(len, ways)) == len(CLAIMS)
    assert set().union(*ways) == set(CLAIMS)
    used = {name for one in trained.CONTESTS.values() for name in (one.ours[0], one.theirs[0])}
    assert used <= set(trained.TRAININGS)


@pytest.mark.parametrize("name", trained.TRAININGS)
def test_every_training_is_a_config_that_can_be_read(name):
    from pipelines.training_job import read_config

    one = trained.TRAININGS[name]
    config = read_config(one.config, shards=[], validation_shards=[], settings=[*one.settings, f"steps={one.steps}"])
    assert config.steps == one.steps
    assert one.initial is None or one.initial in trained.TRAININGS or one.initial.startswith("builtin:")


def test_galleries_are_whole_families_of_held_out_captions_another_for_each_seed():
    one, other = (gallery.draw(seed, images=24, texts=8, size=32) for seed in (1, 2))
    again = gallery.draw(1, images=24, texts=8, size=32)
    assert one.pixels.shape == (24, 1, 32, 32, 3)
    assert one.captions == again.captions
    assert (one.pixels == again.pixels).all()
    assert not set(one.captions) & set(other.captions)
    held = gallery_captions(images=gallery.largest(), videos=0, seed=20_000)
    assert {*one.captions, *other.captions} <= held
    words = [sorted(caption.split()) for caption in one.captions[:2]]
    assert words[0] == words[1]  # colours exchanged


@pytest.fixture(scope="module")
def small() -> dict[str, Measured]:
    """The shipped models on a tiny gallery."""
    return {
        letters: Measured(open_checkpoint(f"builtin:{name}"), (1, 2), items=40, texts=8, distractors=200)
        for letters, (_, name) in SYSTEMS.items()
    }


@pytest.mark.parametrize("claim", MEASURES)
def test_every_measure_runs_on_the_shipped_model(small, claim):
    found = MEASURES[claim](small[CLAIMS[claim].system])
    assert found.claim == claim
    assert found.verdict in ("holds", "does not hold")
    assert found.ours
    json.dumps(found.values)


def test_scores_are_those_of_the_pipeline_s_adapters(small):
    on = small["LP"]
    shown = on.galleries[0]
    scores = score_all(on.model, shown)
    text, item = 3, 17
    cache = on.model.scorer.visual_cache(shown.pixels[item : item + 1])
    assert scores.slow[text, item] == pytest.approx(on.model.scorer.score([shown.captions[text]], cache)[0], abs=1e-4)
    vectors = on.model.encoder.encode_text([shown.captions[text]])["embedding"][0]
    assert scores.fast[text, item] == pytest.approx(
        float(vectors @ on.model.encoder.encode_visual(shown.pixels[item : item + 1])["embedding"][0]), abs=1e-5
    )


def test_a_difference_says_the_mean_the_seeds_and_the_interval():
    ours, theirs = [np.array([100.0, 0, 100, 100])] * 2, [np.array([100.0, 0, 0, 100])] * 2
    found = difference("FS1", ours, theirs, holds=lambda d: d > 5, names=("slow", "fast"), seeds=(1, 2))
    assert found.verdict == "holds"
    assert found.ours == "slow 75.0, fast 50.0: +25.0"
    assert found.values == (25.0, 25.0)
    assert found.interval[0] <= 25 <= found.interval[1]
    assert (
        difference("FS1", ours, ours, holds=lambda d: d > 5, names=("a", "b"), seeds=(1, 2)).verdict == "does not hold"
    )


def test_findings_come_back_as_they_were_written(tmp_path):
    found = {
        "LP4": Finding("LP4", "holds", "x", (1.0, 2.0), (1, 2), (-0.5, 0.5), facts={"items": 3}),
        "FS2": not_tested("FS2", "no time"),
    }
    findings.write(tmp_path / "claims.json", found, surroundings={"quick": True})
    back = findings.read(tmp_path / "claims.json")
    assert back["FS2"] == found["FS2"]
    assert back["LP4"] == found["LP4"]
    page = render(back, {"quick": True, "galleries": "g"})
    assert "**1 of 32 hold, 0 do not, 31 are not tested.**" in page
    assert "no time" in page.replace("No time", "no time")
    assert all(f"**{name}**" in page for name in CLAIMS)


def test_a_run_keeps_what_was_found_before_and_refuses_strangers(tmp_path, monkeypatch):
    monkeypatch.setitem(MEASURES, "LP6", lambda on: Finding("LP6", "holds", "y", (1.0,), on.seeds))
    findings.write(tmp_path / "claims.json", {"FS1": not_tested("FS1", "before")}, surroundings={})
    found = run(tmp_path, folder=tmp_path / "work", quick=True, seeds=(4,), only=["LP6", "LP1"])
    assert found["LP6"].command == "fastslow claims --only LP6 --seeds 4"
    assert found["LP1"].verdict == "not tested"
    assert "without --quick" in found["LP1"].note
    assert set(findings.read(tmp_path / "claims.json")) == {"FS1", "LP6", "LP1"}
    assert "| **LP6** cross beats dual" in (tmp_path / "claims.md").read_text()
    with pytest.raises(ConfigError, match="unknown claim 'LP9'"):
        run(tmp_path, folder=tmp_path, quick=True, only=["LP9"])
    with pytest.raises(ConfigError, match="all different"):
        run(tmp_path, folder=tmp_path, quick=True, seeds=(1, 1))


def test_the_command_lists_the_claims_without_measuring():
    done = CliRunner().invoke(app, ["claims", "--dry-run"])
    assert done.exit_code == 0
    assert "FS1" in done.output
    assert "LP7" in done.output


def test_contests_train_once_and_compare(tmp_path, monkeypatch):
    small = ("batch_size=4", "data.curriculum=[{from_step: 0, objects: 1}]", "data.video_share=0")
    few = ("data.validation_images=4", "data.validation_videos=0", "model.image_size=32", "model.grid=2")
    tiny = trained.Training("demo-loopitr", 2, (*small, *few))
    monkeypatch.setattr(trained, "ITEMS", 16)
    monkeypatch.setattr(trained, "TEXTS", 8)
    monkeypatch.setitem(trained.TRAININGS, "lp-distilled", tiny)
    monkeypatch.setitem(trained.TRAININGS, "lp-base", tiny)
    told = []
    on = trained.Trained(tmp_path, (1,), tell=told.append)
    found = trained.decide(["LP1"], on)["LP1"]
    assert found.values == (0.0,)  # the same training twice
    assert found.verdict == "does not hold"
    assert len(told) == 2
    again = trained.Trained(tmp_path, (1,), tell=told.append)
    assert trained.decide(["LP1"], again)["LP1"] == found
    assert len(told) == 2
