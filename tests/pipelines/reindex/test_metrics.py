"""The metrics of a run are there however it ended, parse, agree with what is on disk, and outlive a bad night."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.reindex.lock import locked
from pipelines.reindex.metrics import LAST, SERVED, recorded
from schemas.errors import BusyError, ConfigError, GateError, InputError
from schemas.layout import Layout

REPO = Path(__file__).resolve().parents[3]

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(path: Path, dataset: str = "colours") -> Figures:
    """(name, other labels) -> value; every line is of the dataset, every family a gauge with help."""
    found: Figures = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("dataset") == dataset
            found[sample.name, tuple(sorted(labels.items()))] = sample.value
    return found


def plain(figures: Figures) -> dict[str, float]:
    return {name.removeprefix("fastslow_"): value for (name, labels), value in figures.items() if not labels}


def served(figures: Figures) -> Figures:
    return {key: value for key, value in figures.items() if key[0] in SERVED}


def write(path: Path, world, error: BaseException | None = None, until="reindex", job=True) -> Figures:
    """What the file says after a run that ended so."""
    raised = pytest.raises(type(error)) if error else contextlib.nullcontext()
    with raised, recorded(str(path), "colours", world.layout.root, until=until) as record:
        if job:
            record.begin(world.world.job).seconds["embed"] = 1.5
        if error:
            raise error
    return parsed(path)


def test_what_is_served_is_told_as_it_is_on_disk(published_world, tmp_path):
    generation, root = published_world.generation, Path(published_world.layout.root)
    before = time.time()
    found = write(tmp_path / "colours.prom", published_world)
    told = plain(found)
    assert told["items"] == 60
    assert told["rejects"] == generation.counts.rejected
    assert told["generation_number"] == 1
    made = datetime.fromisoformat(generation.created)
    assert told["generation_created_timestamp_seconds"] == made.timestamp()
    folder = (root / generation.index).parent
    index = json.loads((root / generation.index).read_text())
    opened = [folder / "index.faiss", folder / "ids.npy"]
    assert told["index_size_bytes"] == sum(path.stat().st_size for path in opened)
    assert found["fastslow_index_recall_ratio", (("k", "10"),)] == index["recall"]
    assert found["fastslow_index_recall_target_ratio", (("k", "10"),)] == 0.95
    for side in ("fast", "reranked"):
        for k in (1, 5, 10):
            labels = (("direction", "text_to_image"), ("k", f"{k}"), ("side", side))
            figure = generation.metrics["text_to_image"][side][f"R@{k}"]
            assert found["fastslow_query_recall_ratio", labels] == figure
    assert told["last_run_exit_code"] == 0
    assert before <= told["last_run_timestamp_seconds"] <= time.time()
    assert before <= told["last_success_timestamp_seconds"] <= time.time()
    assert 0 < told["last_run_duration_seconds"] < 60
    assert found["fastslow_last_run_stage_duration_seconds", (("stage", "embed"),)] == 1.5
    assert {name for name, _ in found} == {*SERVED, *LAST}
    assert os.listdir(tmp_path) == ["colours.prom"]
    assert (tmp_path / "colours.prom").stat().st_mode & 0o444 == 0o444  # the collector is another user


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GateError("refused"), 3),
        (BusyError("locked"), 75),
        (ConfigError("usage"), 2),
        (InputError("unreadable"), 1),
        (RuntimeError("of our own making"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("job", [True, False])
def test_a_bad_night_tells_its_code_and_changes_nothing_else(published_world, tmp_path, error, code, job):
    path = tmp_path / "colours.prom"
    good = write(path, published_world)
    bad = write(path, published_world, error, job=job)
    assert plain(bad)["last_run_exit_code"] == code
    assert plain(bad)["last_success_timestamp_seconds"] == plain(good)["last_success_timestamp_seconds"]
    assert plain(bad)["last_run_timestamp_seconds"] > plain(good)["last_run_timestamp_seconds"]
    assert served(bad) == served(good)


def test_only_a_run_that_publishes_is_a_success_of_the_whole(published_world, tmp_path):
    path = tmp_path / "colours.prom"
    first = plain(write(path, published_world, until="publish"))["last_success_timestamp_seconds"]
    embedded = plain(write(path, published_world, until="embed"))
    assert embedded["last_run_exit_code"] == 0
    assert embedded["last_success_timestamp_seconds"] == first


@pytest.mark.parametrize("left", [None, b"", b"not { metrics", b"\xff\xfe\x00"])
def test_without_a_file_to_go_by_the_generation_served_was_the_last_success(published_world, tmp_path, left):
    path = tmp_path / "colours.prom"
    if left is not None:
        path.write_bytes(left)
    told = plain(write(path, published_world, GateError("refused")))
    assert told["last_success_timestamp_seconds"] == told["generation_created_timestamp_seconds"]


def test_before_the_first_generation_there_was_no_success(tmp_path):
    path = tmp_path / "colours.prom"
    with pytest.raises(InputError), recorded(str(path), "colours", str(tmp_path), until="reindex"):
        raise InputError("no shards")
    found = parsed(path)
    assert served(found) == {}
    assert plain(found)["last_success_timestamp_seconds"] == 0
    assert plain(found)["last_run_exit_code"] == 1


def test_a_target_that_was_raised_is_the_one_asked_for_now(published_world, tmp_path):
    job = published_world.world.with_settings(index__recall_target=0.99)
    path = tmp_path / "colours.prom"
    with recorded(str(path), "colours", published_world.layout.root, until="reindex") as record:
        record.begin(job)
    assert parsed(path)["fastslow_index_recall_target_ratio", (("k", "10"),)] == 0.99


def test_when_the_root_is_out_of_reach_the_figures_stay(published_world, tmp_path, caplog):
    path, root = tmp_path / "colours.prom", tmp_path / "root"
    shutil.copytree(published_world.layout.root, root)
    good = write(path, published_world)
    (root / published_world.generation.index).write_text("damaged")
    with pytest.raises(InputError), recorded(str(path), "colours", str(root), until="reindex"):
        raise InputError("damaged")
    assert served(parsed(path)) == served(good)
    assert "what is served cannot be read" in caplog.text


def test_a_config_that_cannot_be_read_does_not_rename_the_dataset(published_world, tmp_path):
    path, config = tmp_path / "x.prom", tmp_path / "colours-nightly.yaml"
    config.write_text("name: [")
    good = write(path, published_world)
    with pytest.raises(ConfigError), recorded(str(path), str(config), published_world.layout.root, until="reindex"):
        raise ConfigError("not YAML")
    assert served(parsed(path)) == served(good)
    path.unlink()
    with pytest.raises(ConfigError), recorded(str(path), str(config), published_world.layout.root, until="reindex"):
        raise ConfigError("not YAML")
    assert plain(parsed(path, "colours-nightly"))["last_run_exit_code"] == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("metrics.txt", "ends in .prom"),
        ("s3://bucket/metrics.prom", "a local file"),
        ("no/such/metrics.prom", "there is no folder .*no/such"),
    ],
)
def test_a_file_that_no_collector_reads_is_refused_before_the_run(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message), recorded(path, "colours", "root", until="reindex"):
        pytest.fail("it ran")
    assert list(tmp_path.iterdir()) == []


def test_metrics_that_cannot_be_written_fail_a_good_run_and_hide_no_error(published_world, tmp_path, caplog):
    (tmp_path / "taken.prom").mkdir()
    arguments = (str(tmp_path / "taken.prom"), "colours", published_world.layout.root)
    with pytest.raises(InputError, match="the run itself ended with exit code 0"), recorded(*arguments, until="embed"):
        pass
    with pytest.raises(GateError, match="refused"), recorded(*arguments, until="embed"):
        raise GateError("refused")
    assert "the run itself ended with exit code 3" in caplog.text
    assert os.listdir(tmp_path) == ["taken.prom"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", "--quiet", "reindex", "demo", "--json", *arguments]


def run(*arguments: str) -> tuple[int, dict, str]:
    """Exit code, the JSON line, stderr; of the command as a scheduler runs it."""
    environment = os.environ | {"PYTHONPATH": str(REPO), "COLUMNS": "200"}
    done = subprocess.run(command(*arguments), capture_output=True, text=True, cwd=REPO, env=environment)
    [line] = done.stdout.splitlines()
    return done.returncode, json.loads(line), done.stderr


def check(folder: Path, outcome: tuple[int, dict, str], *, code: int, error: str) -> None:
    """Exit code, JSON line, message and metrics agree."""
    returned, said, shown = outcome
    assert (returned, said["exit_code"], said["error"]) == (code, code, error), shown
    assert said["message"] in shown
    assert said["arguments"][:3] == ["--quiet", "reindex", "demo"]
    assert plain(parsed(folder / "demo.prom", "demo"))["last_run_exit_code"] == code


def test_a_wrong_option(tmp_path):
    outcome = run("--root", str(tmp_path), "--metrics", str(tmp_path / "demo.prom"), "--set", "rerank.depht=3")
    check(tmp_path, outcome, code=2, error="ConfigError")


def test_a_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    outcome = run("--root", str(tmp_path / "file" / "root"), "--metrics", str(tmp_path / "demo.prom"))
    check(tmp_path, outcome, code=1, error="InputError")


def test_a_locked_dataset(tmp_path):
    with locked(Layout(str(tmp_path), "demo"), "another run"):
        outcome = run("--root", str(tmp_path), "--metrics", str(tmp_path / "demo.prom"))
    check(tmp_path, outcome, code=75, error="BusyError")


@pytest.mark.slow
def test_a_gate_that_refuses_a_stage_that_ran(tmp_path):
    with tarfile.open(tmp_path / "broken.tar", "w") as tar:
        for number in range(3):
            (tmp_path / "broken.jpg").write_bytes(b"no picture")
            tar.add(tmp_path / "broken.jpg", f"{number}.jpg")
    shards = ["--shards", str(tmp_path / "broken.tar")]
    outcome = run("--root", str(tmp_path), "--metrics", str(tmp_path / "demo.prom"), *shards)
    check(tmp_path, outcome, code=3, error="GateError")
    spent = parsed(tmp_path / "demo.prom", "demo")["fastslow_last_run_stage_duration_seconds", (("stage", "embed"),)]
    assert spent > 0


def test_a_run_that_is_stopped_lets_go_of_the_lock(tmp_path):
    arguments = command("--root", str(tmp_path), "--metrics", str(tmp_path / "demo.prom"))
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, cwd=REPO, env=environment, text=True, **pipes) as process:
        while not (tmp_path / "LOCK" / "demo").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        out, shown = process.communicate()
    check(tmp_path, (process.returncode, json.loads(out), shown), code=130, error="KeyboardInterrupt")
    assert not (tmp_path / "LOCK" / "demo").exists()


def test_a_dry_run_writes_no_metrics(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    arguments = command("--root", str(tmp_path), "--metrics", str(tmp_path / "demo.prom"), "--dry-run")
    assert subprocess.run(arguments, capture_output=True, cwd=REPO, env=environment).returncode == 0
    assert not (tmp_path / "demo.prom").exists()
