"""Every verb has help, an example and a dry run that writes nothing; errors are one line with the documented code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app

REPO = Path(__file__).resolve().parents[2]
VERBS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)
STAGES = ["prepare", "embed", "index", "rerank", "evaluate", "publish", "reindex"]


def fastslow(*arguments: str, cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    environment = os.environ | {"PYTHONPATH": str(REPO), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments], capture_output=True, text=True, cwd=cwd, env=environment
    )


READS = ("generations", "rejects", "verify", "doctor")
"""Verbs that only look."""


def files(folder: Path) -> list[str]:
    """Everything below a folder but memos, which may be deleted at any time."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "cache" not in p.parts)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_a_copyable_example(verb):
    shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0
    assert f"Example: fastslow {verb} " in re.sub(r"\s+", " ", shown.output)
    assert ("--dry-run" in shown.output) is (verb not in READS)


@pytest.mark.parametrize("verb", STAGES)
def test_a_dry_run_of_a_stage_prints_the_plan_and_writes_nothing(verb, tmp_path):
    models = ["--encoder", "demo-hivlp", "--scorer", "none"]  # all stages take the same, for schedulers
    done = fastslow(
        verb, "demo", *models, "--root", str(tmp_path), "--dry-run", "--json", "--", "--runner", "DirectRunner"
    )
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)
    assert steps[0]["stage"] == "prepare"
    assert steps[0]["state"] == "to do"
    assert all(step["state"] == "after" for step in steps[1:])
    assert files(tmp_path) == []


def test_the_cost_of_an_index_is_told_without_building_it(tmp_path):
    asked = ["index", "demo", "--root", str(tmp_path), "--plan", "--rows", "1000000", "--width", "64", "--json"]
    done = fastslow(*asked)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"], told["dim"]) == (1_000_000, 64)
    assert told["serving_bytes"] > 1_000_000 * 8
    assert files(tmp_path) == []


def test_a_dry_run_of_training_prints_the_config_and_writes_nothing(tmp_path):
    done = fastslow("train", "demo-loopitr", "--out", str(tmp_path / "out"), "--set", "steps=7", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 7
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["reindex", "demmo"], 2, "unknown dataset 'demmo'; did you mean 'demo'?"),
        (["reindex", "demo", "--encoder", "nothing"], 2, "unknown encoder 'nothing'. Known: "),
        (
            ["reindex", "demo", "--scorer", "demo-loopit"],
            2,
            "unknown scorer 'demo-loopit'; did you mean 'demo-loopitr'?",
        ),
        (["reindex", "demo", "--encoder", "no/model"], 2, "encoder no/model: no such folder; expected a checkpoint"),
        (["reindex", "demo", "--scorer", "no/model"], 2, "of a hub model, a YAML file that says path: no/model"),
        (["reindex", "demo", "--set", "rerank.depth=3", "index.seed=1"], 2, "unexpected argument 'index.seed=1'"),
        (["reindex", "demo", "--set", "rerank.depht=3"], 2, "rerank.depht: unknown key; allowed here: "),
        (["reindex", "flickr8k"], 2, "checkpoints/flickr8k-loopitr"),
        (["reindex", "demo", "--shards", "no/such-{000..001}.tar"], 1, "no/such-"),
        (["index", "demo", "--root", "nowhere", "--plan"], 1, "give --rows and --width"),
        (["search", "demo", "a cat", "--root", "nowhere"], 1, "demo"),
        (["search", "demo", "a cat", "--save", "no/such/folder.png"], 2, "expected a file in a folder that is there"),
        (["rollback", "demo", "9", "--root", "nowhere"], 1, "nothing is published yet"),
        (["replay", "demo", "--root", "nowhere"], 1, "there is nothing to replay; run fastslow reindex"),
        (["train", "flickr8k-loopitr", "--out", "nowhere"], 1, "--shards"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_a_wrong_command_is_one_clear_message_and_the_documented_code(arguments, code, message, tmp_path):
    done = fastslow(*(str(tmp_path / "root") if one == "nowhere" else one for one in arguments))
    assert done.returncode == code, done.stderr
    assert message in re.sub(r"\s+", " ", done.stderr)
    assert "Traceback" not in done.stderr


def test_where_nothing_is_published_a_sentence_says_so(tmp_path):
    done = fastslow("generations", "demo", "--root", str(tmp_path))
    assert (done.returncode, done.stdout) == (
        0,
        "nothing of demo is published here yet; run: fastslow reindex demo\n",
    )
    assert json.loads(fastslow("generations", "demo", "--root", str(tmp_path), "--json").stdout) == []


def test_json_is_one_line_also_where_what_was_found_is_an_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    done = fastslow("doctor", "--root", str(tmp_path / "file"), "--json")
    assert done.returncode == 1
    [line] = done.stdout.splitlines()
    assert "root" in json.loads(line)["errors"]
    assert "a run would fail: " in done.stderr
    [line] = fastslow("search", "demo", "a cat", "--root", str(tmp_path / "root"), "--json").stdout.splitlines()
    assert json.loads(line)["exit_code"] == 1


def test_debug_shows_the_traceback():
    done = fastslow("--debug", "reindex", "demmo")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
