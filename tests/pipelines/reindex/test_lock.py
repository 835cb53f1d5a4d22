"""One run per dataset: the second is told to wait, a dead one's lock is broken, whatever the clock says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from pipelines.reindex import lock
from pipelines.reindex.lock import held, locked
from schemas.commits import commit_json, read_json
from schemas.errors import BusyError, InputError
from schemas.layout import Layout


@pytest.fixture(params=["local", "memory"])
def layout(request, tmp_path) -> Layout:
    return Layout(str(tmp_path) if request.param == "local" else f"memory://{tmp_path}", "toy")


def there(layout: Layout) -> bool:
    fs, path = fsspec.core.url_to_fs(layout.lock())
    return bool(fs.exists(path))


def test_the_second_waits_and_is_told_for_whom(layout):
    with locked(layout, "fastslow reindex"):
        said = f"toy is locked by fastslow reindex on .*, process {os.getpid()}"
        with pytest.raises(BusyError, match=said) as info, locked(layout, "fastslow embed"):
            pass
        assert info.value.exit_code == 75
        with locked(Layout(layout.root, "other"), "another dataset"):
            assert there(layout)
    assert not there(layout)
    with locked(layout, "again"):
        assert read_json(layout.lock())["purpose"] == "again"


def test_others_see_whose_it_is_and_whether_it_still_counts(layout):
    assert held(layout) is None
    with locked(layout, "fastslow reindex"):
        owner = held(layout)
        assert owner is not None
        assert owner.who.startswith("fastslow reindex on ")
        assert owner.stale is None
    assert held(layout) is None
    owner = {"token": "t", "host": "elsewhere", "pid": 1, "process_started": "1", "purpose": "a run", "heartbeat": 0.0}
    assert commit_json(layout.lock(), owner)
    assert "its last heartbeat was" in (held(layout).stale or "")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_lock_that_cannot_be_read_is_an_error_for_who_looks(tmp_path, text):
    layout = Layout(str(tmp_path), "toy")
    Path(layout.lock()).parent.mkdir()
    Path(layout.lock()).write_text(text)
    with pytest.raises(InputError, match="LOCK/toy"):
        held(layout)


def test_it_is_let_go_when_the_run_fails(layout):
    with pytest.raises(RuntimeError), locked(layout, "fails"):
        raise RuntimeError
    assert not there(layout)


HOLD = """
import sys, time
from pipelines.reindex.lock import locked
from schemas.layout import Layout
with locked(Layout(sys.argv[1], "toy"), "fastslow reindex"):
    time.sleep(600)
"""


def test_of_a_killed_process_nothing_is_left_to_wait_for(tmp_path, caplog):
    layout = Layout(str(tmp_path), "toy")
    with subprocess.Popen([sys.executable, "-c", HOLD, layout.root]) as process:
        while not there(layout):
            assert process.poll() is None
            time.sleep(0.02)
        with pytest.raises(BusyError, match=f"process {process.pid}"), locked(layout, "too early"):
            pass
        process.kill()
    with locked(layout, "next night"):
        assert read_json(layout.lock())["pid"] == os.getpid()
    assert "the lock of fastslow reindex on" in caplog.text
    assert f"process {process.pid} is broken: process {process.pid} is gone" in caplog.text


@pytest.mark.parametrize(("age", "busy"), [(5, True), (lock.STALE_S + 60, False), (-86_400, True)])
def test_of_another_machine_the_heartbeat_counts(layout, age, busy):
    owner = {"token": "t", "host": "elsewhere", "pid": 1, "process_started": "1", "purpose": "a run"}
    assert commit_json(layout.lock(), {**owner, "heartbeat": time.time() - age})
    if busy:
        with pytest.raises(BusyError, match="a run on elsewhere"), locked(layout, "mine"):
            pass
        assert read_json(layout.lock())["host"] == "elsewhere"
    else:
        with locked(layout, "mine"):
            assert read_json(layout.lock())["purpose"] == "mine"


def test_a_long_run_beats_and_does_not_remove_what_is_not_its_own(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    layout = Layout(str(tmp_path), "toy")
    with locked(layout, "long"):
        first = read_json(layout.lock())["heartbeat"]
        deadline = time.monotonic() + 10
        while read_json(layout.lock())["heartbeat"] == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert read_json(layout.lock())["heartbeat"] > first
        path = Path(layout.lock())
        path.write_text(json.dumps({**json.loads(path.read_text()), "token": "another"}))
        while "taken away" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "taken away" in caplog.text
    assert there(layout)
