"""A lock that is held or was left, and a pointer that leads nowhere, each with the way out."""

import json
import shutil
from pathlib import Path

import pytest

from pipelines.doctor import served
from pipelines.reindex.lock import locked
from schemas.commits import commit_json
from schemas.layout import Layout


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(str(tmp_path), "toy")


def test_a_free_dataset_with_nothing_published_is_well(layout):
    assert served.lock(layout) == ("lock", "ok", "free", "")
    assert served.generation(layout) == ("served", "ok", "nothing yet", "")


def test_a_run_at_work_is_named(layout):
    with locked(layout, "fastslow reindex"):
        found = served.lock(layout)
    assert (found.state, "held by fastslow reindex on" in found.found) == ("warning", True)
    assert "exit code 75" in found.remedy


def test_a_lock_that_was_left_is_told_apart(layout):
    owner = {"token": "t", "host": "elsewhere", "pid": 1, "process_started": "1", "purpose": "a run", "heartbeat": 0.0}
    assert commit_json(layout.lock(), owner)
    found = served.lock(layout)
    assert (found.state, "left by a run on elsewhere, process 1: its last heartbeat" in found.found) == (
        "warning",
        True,
    )


def test_a_lock_that_cannot_be_read_is_an_error(layout):
    Path(layout.lock()).parent.mkdir(parents=True)
    Path(layout.lock()).write_text("{")
    found = served.lock(layout)
    assert (found.state, layout.lock() in found.remedy) == ("error", True)


@pytest.fixture
def copied(published_world, tmp_path) -> Layout:
    """A published world of our own; its shards stay where they are."""
    shutil.copytree(published_world.layout.root, tmp_path / "root")
    return Layout(str(tmp_path / "root"), published_world.layout.dataset)


def test_a_whole_generation_is_well(copied):
    assert served.generation(copied) == ("served", "ok", "generation 1", "")


def test_a_pointer_to_nothing_and_files_that_are_gone_are_errors(copied):
    first = Path(copied.generation(1))
    second = Path(copied.generation(2))
    second.parent.mkdir()
    second.write_text(first.read_text().replace('"number": 1', '"number": 2'))
    first.rename(tmp := first.with_suffix(".away"))
    found = served.generation(copied)
    assert (found.state, "not found" in found.found) == ("error", True)
    assert found.remedy == "fastslow rollback colours 2"
    tmp.rename(first)
    second.unlink()
    Path(copied.root, json.loads(first.read_text())["index"]).unlink()
    found = served.generation(copied)
    assert found.state == "error"
    assert "1 of its files cannot be read" in found.found
    assert found.remedy.startswith("fastslow verify colours")


def test_a_damaged_pointer_is_an_error_that_names_what_there_is(copied):
    Path(copied.current()).write_text('{"generation": "one"}')
    found = served.generation(copied)
    assert (found.state, "there are 1" in found.remedy) == ("error", True)
