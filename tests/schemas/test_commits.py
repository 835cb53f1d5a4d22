"""Files appear whole or not at all; a manifest is created once, whoever races."""

import multiprocessing
import os

import pytest

from schemas.commits import commit_json, publish_bytes, publish_file, read_json
from schemas.errors import InputError


def _race(url: str, number: int, results) -> None:
    results.put((number, commit_json(url, {"winner": number})))


def test_one_of_many_racing_processes_commits_and_its_value_stands(tmp_path):
    url = str(tmp_path / "a" / "manifest.json")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    racers = [context.Process(target=_race, args=(url, number, results)) for number in range(8)]
    for racer in racers:
        racer.start()
    outcomes = dict(results.get(timeout=30) for _ in racers)
    for racer in racers:
        racer.join()
    winners = [number for number, won in outcomes.items() if won]
    assert len(winners) == 1
    assert read_json(url) == {"winner": winners[0]}
    assert os.listdir(tmp_path / "a") == ["manifest.json"]


def test_a_second_commit_changes_nothing(tmp_path):
    url = str(tmp_path / "m.json")
    assert commit_json(url, {"a": 1})
    assert not commit_json(url, {"a": 2})
    assert read_json(url) == {"a": 1}


def test_equal_values_are_equal_bytes(tmp_path):
    commit_json(str(tmp_path / "a.json"), {"b": 1, "a": 2})
    commit_json(str(tmp_path / "b.json"), {"a": 2, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_publishing_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        publish_file(tmp_path / "missing", str(tmp_path / "out" / "data"))
    assert list((tmp_path / "out").iterdir()) == []


def test_memory_filesystem_keeps_the_same_promises():
    url = "memory://commits/manifest.json"
    publish_bytes(b"x", "memory://commits/data")
    assert commit_json(url, {"a": 1})
    assert not commit_json(url, {"a": 2})
    assert read_json(url) == {"a": 1}


def test_a_damaged_manifest_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(InputError, match="not JSON.*remove it"):
        read_json(str(tmp_path / "m.json"))
