"""Every claim has a way to be decided and a row on the page; measures run on a real small model."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines.claims import contests, findings, gallery, job, on_scenes, records
from pipelines.claims.bench import Size, Training
from pipelines.claims.findings import Finding, Made, difference, not_tested
from pipelines.claims.job import run
from pipelines.claims.measured import MEASURES, Measured
from pipelines.claims.page import render
from pipelines.claims.papers import CLAIMS
from pipelines.claims.scores import score_all
from pipelines.claims.trained import Trained
from pipelines.cli import app
from pipelines.prepare.gallery import gallery_captions
from pipelines.tables import claims_table
from schemas.errors import ConfigError, InputError


def test_every_claim_is_decided_in_one_way():
    ways = [set(MEASURES), {"HV2"}, set(contests.CONTESTS), set(contests.SPECIAL)]
    assert sum(map(len, ways)) == len(CLAIMS)
    assert set().union(*ways) == set(CLAIMS)
    used = {name for one in contests.CONTESTS.values() for name in (one.ours[0], one.theirs[0])}
    assert used <= set(on_scenes.TRAININGS)


@pytest.mark.parametrize("name", on_scenes.TRAININGS)
def test_every_training_is_a_config_that_can_be_read(name):
    from pipelines.training_job import read_config

    one = on_scenes.TRAININGS[name]
    config = read_config(one.config, shards=[], validation_shards=[], settings=[*one.settings, f"steps={one.steps}"])
    assert config.steps == one.steps
    assert one.initial is None or one.initial in on_scenes.TRAININGS or one.initial.startswith("builtin:")


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
def small(tmp_path_factory) -> dict[str, Measured]:
    """The shipped models on a tiny gallery."""
    bench = replace(on_scenes.scenes_bench(), measured=Size(40, 8), large=200)
    on = Trained(bench, tmp_path_factory.mktemp("small"), (1, 2))
    return {letters: Measured(on, name) for letters, name in bench.mains.items()}


@pytest.mark.parametrize("claim", MEASURES)
def test_every_measure_runs_on_the_shipped_model(small, claim):
    found = MEASURES[claim](small[CLAIMS[claim].system])
    assert found.claim == claim
    assert found.verdict in ("holds", "does not hold")
    assert found.ours
    json.dumps(found.values)


def test_scores_are_those_of_the_pipeline_s_adapters(small):
    on = small["LP"]
    shown, model = on.gallery(1), on.model(1)
    scores = score_all(model, shown)
    text, item = 3, 17
    cache = model.scorer.visual_cache(shown.pixels[item : item + 1])
    assert scores.slow[text, item] == pytest.approx(model.scorer.score([shown.captions[text]], cache)[0], abs=1e-4)
    vectors = model.encoder.encode_text([shown.captions[text]])["embedding"][0]
    assert scores.fast[text, item] == pytest.approx(
        float(vectors @ model.encoder.encode_visual(shown.pixels[item : item + 1])["embedding"][0]), abs=1e-5
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
    made = {"scenes": Made(found, {"quick": True, "galleries": "g"}), "flickr8k": Made({"FS2": found["FS2"]}, {})}
    findings.write(tmp_path / "claims.json", made)
    assert findings.read(tmp_path / "claims.json") == made
    page = render(made, {}, {})
    assert "on g, unless a row says else; **1 of 32 hold, 0 do not, 31 are not tested.**" in page
    assert "**0 of 32 hold, 0 do not, 32 are not tested.**" in page
    assert "no time" in page.replace("No time", "no time")
    assert all(f"**{name}**" in page for name in CLAIMS)
    rows = [
        line for line in page.splitlines() if line.startswith("|") and ("| scenes |" in line or "| photos |" in line)
    ]
    assert len(rows) == 2 * len(CLAIMS)


def test_a_run_keeps_what_was_found_before_and_refuses_strangers(tmp_path, monkeypatch):
    monkeypatch.setitem(MEASURES, "LP6", lambda on: Finding("LP6", "holds", "y", (1.0,), on.seeds))
    before = Made({"FS1": not_tested("FS1", "before")}, {"quick": False})
    photos = Made({"FS1": not_tested("FS1", "there")}, {"galleries": "p"})
    findings.write(tmp_path / "claims.json", {"scenes": before, "flickr8k": photos})
    found = run(tmp_path, folder=tmp_path / "work", quick=True, seeds=(4,), only=["LP6", "LP1"])
    assert found["LP6"].finding.command == "fastslow claims --only LP6 --seeds 4"
    assert found["LP1"].finding.verdict == "not tested"
    assert "without --quick" in found["LP1"].finding.note
    now = findings.read(tmp_path / "claims.json")
    assert set(now["scenes"].findings) == {"FS1", "LP6", "LP1"}
    assert now["scenes"].made == {"quick": False}  # some claims alone say nothing of all
    assert now["flickr8k"] == photos
    assert "| **LP6** cross beats dual" in (tmp_path / "claims.md").read_text()
    with pytest.raises(ConfigError, match="unknown claim 'LP9'"):
        run(tmp_path, folder=tmp_path, quick=True, only=["LP9"])
    with pytest.raises(ConfigError, match="all different"):
        run(tmp_path, folder=tmp_path, quick=True, seeds=(1, 1))


def test_what_another_run_finds_meanwhile_stays(tmp_path, monkeypatch):
    def lp6(on: Measured) -> Finding:
        monkeypatch.setitem(MEASURES, "LP4", lambda on: Finding("LP4", "holds", "z", (2.0,), on.seeds))
        run(tmp_path, folder=tmp_path / "other", quick=True, seeds=(4,), only=["LP4"])
        return Finding("LP6", "holds", "y", (1.0,), on.seeds)

    monkeypatch.setitem(MEASURES, "LP6", lp6)
    run(tmp_path, folder=tmp_path / "work", quick=True, seeds=(4,), only=["LP6"])
    assert set(findings.read(tmp_path / "claims.json")["scenes"].findings) == {"LP4", "LP6"}


def test_other_seeds_are_compared_with_what_is_recorded_and_leave_it(tmp_path, monkeypatch):
    values = {1: 10.0, 2: 12.0, 3: 11.0, 7: 11.5, 8: 40.0}
    monkeypatch.setitem(
        MEASURES, "LP6", lambda on: Finding("LP6", "holds", "y", tuple(values[seed] for seed in on.seeds), on.seeds)
    )

    def asked(*seeds: int, **options: bool):
        return run(tmp_path, folder=tmp_path / "work", quick=True, seeds=seeds, only=["LP6"], **options)["LP6"]

    assert asked(1, 2, 3).recorded is None
    low, high = 11 - 4.302653 * (4 / 3) ** 0.5, 11 + 4.302653 * (4 / 3) ** 0.5
    near, far = asked(7), asked(7, 8)
    assert near.bounds == pytest.approx((low, high), abs=1e-4)
    assert near.lands is True
    assert far.lands is False
    recorded = findings.read(tmp_path / "claims.json")["scenes"].findings["LP6"]
    assert recorded.seeds == (1, 2, 3)
    assert near.as_dict()["lands"] is True
    assert "is OUTSIDE" in _text(claims_table(CLAIMS, {"LP6": far}))
    assert asked(1, 2, 3, 7).recorded is None  # more seeds take its place
    assert asked(8, again=True).recorded is None
    assert findings.read(tmp_path / "claims.json")["scenes"].findings["LP6"].seeds == (8,)


def _text(table) -> str:
    from rich.console import Console

    console = Console(width=300, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_command_lists_the_claims_without_measuring():
    done = CliRunner().invoke(app, ["claims", "--dry-run"])
    assert done.exit_code == 0
    assert "FS1" in done.output
    assert "LP7" in done.output


def test_the_page_is_written_again_from_json_alone(tmp_path):
    findings.write(tmp_path / "claims.json", {"scenes": Made({"FS1": Finding("FS1", "holds", "z")}, {})})
    done = CliRunner().invoke(app, ["claims", "--page", "--out", str(tmp_path)])
    assert done.exit_code == 0
    assert "| scenes | z |" in (tmp_path / "claims.md").read_text()
    (tmp_path / "claims.json").unlink()
    with pytest.raises(InputError, match="expected findings, found none"):
        job.page(tmp_path)


def test_the_page_in_the_repository_is_that_of_its_findings(tmp_path):
    docs = Path(__file__).parents[3] / "docs"
    shutil.copy(docs / "claims.json", tmp_path)
    if (docs / "claims").is_dir():
        shutil.copytree(docs / "claims", tmp_path / "claims")
    job.page(tmp_path)
    assert (tmp_path / "claims.md").read_text() == (docs / "claims.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--on", "flickr"], "expected scenes or flickr8k"),
        (["--on", "flickr8k"], "give --shards"),
        (["--shards", "x"], "expected --on flickr8k"),
        (["--targets"], "expected the checkpoints --encoder and --scorer"),
        (["--targets", "--encoder", "a", "--scorer", "b", "--other", "x"], "expected NAME=GLOB"),
    ],
)
def test_options_that_do_not_fit_are_one_clear_error(options, message, tmp_path):
    done = CliRunner().invoke(app, ["claims", *options, "--out", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)


@pytest.mark.slow
def test_contests_train_once_and_compare(tmp_path):
    small = ("batch_size=4", "data.curriculum=[{from_step: 0, objects: 1}]", "data.video_share=0")
    few = ("data.validation_images=4", "data.validation_videos=0", "model.image_size=32", "model.grid=2")
    tiny = Training("demo-loopitr", 2, (*small, *few))
    bench = replace(on_scenes.scenes_bench(), trained=Size(16, 8), trainings={"lp-distilled": tiny, "lp-base": tiny})
    told = []
    on = Trained(bench, tmp_path, (1,), tmp_path / "records", tell=told.append)
    found = contests.decide(["LP1"], on)["LP1"]
    assert found.values == (0.0,)  # the same training twice
    assert found.verdict == "does not hold"
    assert sum("training" in one for one in told) == 2
    again = Trained(bench, tmp_path, (1,), tell=told.append)
    assert contests.decide(["LP1"], again)["LP1"] == found
    assert sum("training" in one for one in told) == 2
    record = records.read(tmp_path / "records" / "lp-base-1.json")
    assert record["config"]["seed"] == record["seed"] == 1
    assert record["test"]["fast_texts"] == 8
    assert str(tmp_path) not in json.dumps(record)
