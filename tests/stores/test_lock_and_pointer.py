"""On every kind of root: of many that take, break or publish at the same moment one does, and the others are told."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.reindex import lock, publish
from pipelines.reindex.lock import locked
from schemas import conditional
from schemas.commits import commit_json, exists, read_json
from schemas.errors import BusyError
from schemas.layout import Layout
from schemas.manifests import Counts

RACERS = 6
FIELDS = {
    "dataset": "d",
    "embeddings": (),
    "embeddings_digest": "e",
    "queries": "q",
    "index": "i",
    "candidates": "c",
    "rankings": "r",
    "config": {},
    "counts": Counts.zero(),
    "metrics": {},
    "seconds": {},
}


@pytest.fixture
def layout(root) -> Layout:
    return Layout(root, "d")


def at_once(act) -> list[object]:
    """What each racer got: a value, or the BusyError."""
    barrier = threading.Barrier(RACERS)

    def one(number: int) -> object:
        barrier.wait()
        try:
            return act(number)
        except BusyError as error:
            return error

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(one, range(RACERS)))


def test_a_lock_is_taken_held_and_let_go(layout):
    with locked(layout, "first"):
        with pytest.raises(BusyError, match="d is locked by first"), locked(layout, "second"):
            pass
        assert read_json(layout.lock())["purpose"] == "first"
    assert not exists(layout.lock())


def test_of_many_one_takes_the_lock(layout):
    got = at_once(lambda number: lock._take(layout.lock(), f"token {number}", "run", "d"))
    [tag] = [one for one in got if not isinstance(one, BusyError)]
    assert conditional.read(layout.lock()).tag == tag


def test_of_many_one_breaks_a_stale_lock(layout, caplog):
    for _ in range(3):
        owner = {"token": "t", "host": "elsewhere", "pid": 1, "process_started": "1", "purpose": "dead"}
        assert commit_json(layout.lock(), {**owner, "heartbeat": time.time() - lock.STALE_S - 1})
        got = at_once(lambda number: lock._take(layout.lock(), f"token {number}", "run", "d"))
        [winner] = [number for number, one in enumerate(got) if not isinstance(one, BusyError)]
        held = conditional.read(layout.lock())
        assert read_json(layout.lock())["token"] == f"token {winner}"
        assert held.tag == got[winner]
        assert conditional.remove(layout.lock(), tag=held.tag)
    assert caplog.text.count("is broken: its last heartbeat was") == 3


def test_the_heart_beats_and_a_lock_that_was_taken_away_is_left(layout, monkeypatch, caplog):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    with locked(layout, "long"):
        first = read_json(layout.lock())["heartbeat"]
        deadline = time.monotonic() + 20
        while read_json(layout.lock())["heartbeat"] == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert read_json(layout.lock())["heartbeat"] > first
        while "taken away" not in caplog.text and time.monotonic() < deadline:
            conditional.replace(layout.lock(), b'{"token": "another"}', tag=conditional.read(layout.lock()).tag)
            time.sleep(0.02)
    assert "taken away" in caplog.text
    assert read_json(layout.lock()) == {"token": "another"}


def test_a_beat_that_fails_is_no_reason_to_stop(s3, s3_server, monkeypatch, caplog):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    layout = Layout(s3, "d")
    with locked(layout, "long"):
        s3_server.faults({"kind": "AccessDenied", "status": 403, "method": "PUT", "times": 2})
        deadline = time.monotonic() + 20
        while "no heartbeat" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
        failed = read_json(layout.lock())["heartbeat"]
        while read_json(layout.lock())["heartbeat"] == failed and time.monotonic() < deadline:
            time.sleep(0.02)
        assert read_json(layout.lock())["heartbeat"] > failed
    assert "taken away" not in caplog.text
    assert not exists(layout.lock())


def test_of_many_that_publish_one_moves_the_pointer(layout):
    for attempt in range(3):
        before = publish.current(layout)
        made = [
            publish.write_generation(layout, FIELDS | {"content": f"{attempt} {number}"}, parent=before)
            for number in range(RACERS)
        ]
        got = at_once(lambda number: publish.serve(layout, made[number].number, expected=before))  # noqa: B023
        [winner] = [number for number, one in enumerate(got) if one is None]
        assert publish.current(layout) == made[winner].number
        assert all("was published meanwhile" in str(one) for one in got if one is not None)


def test_of_many_one_has_the_next_number(layout):
    def write(number: int) -> int:
        return publish.write_generation(layout, FIELDS | {"content": f"{number}"}, parent=None).number

    numbers = [one for one in at_once(write) if not isinstance(one, BusyError)]
    assert len(set(numbers)) == len(numbers) >= 1
    assert publish.numbers(layout) == sorted(numbers)
