"""The root is tried as runs use it, and left as it was found."""

import datetime
import os
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from pipelines.doctor import store
from pipelines.reindex.lock import STALE_S


class Careless(MemoryFileSystem):
    """A store that knows no conditional writes, and whose clock is a day behind: there are such."""

    protocol = "careless"
    store: dict = {}  # noqa: RUF012 - as in the class above
    pseudo_dirs = [""]  # noqa: RUF012

    def modified(self, path):
        return super().modified(path) - datetime.timedelta(days=1)


@pytest.fixture
def careless():
    fsspec.register_implementation("careless", Careless, clobber=True)
    return "careless://bucket/root"


def states(root: str) -> dict[str, str]:
    return {finding.check: finding.state for finding in store.look(root)}


WELL = {"root": "ok", "conditional write": "ok", "clock": "ok"}


def test_a_root_that_is_not_there_yet_is_tried_and_not_left_there(tmp_path):
    assert states(str(tmp_path / "deep" / "root")) == WELL
    assert list(tmp_path.iterdir()) == []


def test_a_root_in_use_is_left_as_it_was(tmp_path):
    (tmp_path / "cache" / "other").mkdir(parents=True)
    (tmp_path / "cache" / "other" / "memo.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert states(str(tmp_path)) == WELL
    assert sorted(tmp_path.rglob("*")) == before


def test_a_remote_root_is_left_as_it_was(tmp_path):
    root = f"memory://{tmp_path}"
    assert states(root) == WELL
    fs, path = fsspec.core.url_to_fs(root)
    assert fs.find(path) == []


def test_a_root_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    [found] = store.look(str(tmp_path / "file" / "root"))
    assert (found.check, found.state) == ("root", "error")
    assert "cannot be written" in found.found


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_root_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert states(str(tmp_path)) == {"root": "error"}
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_file_system_that_takes_no_files_is_an_error():
    assert states("/proc/fastslow") == {"root": "error"}


def test_a_store_that_is_not_known_is_an_error():
    [found] = store.look("nosuchstore://bucket/root")
    assert (found.state, "nosuchstore" in found.found) == ("error", True)


def test_a_store_without_conditional_writes_is_an_error_and_so_is_its_clock(careless):
    found = {finding.check: finding for finding in store.look(careless)}
    assert {name: one.state for name, one in found.items()} == {
        "root": "ok",
        "conditional write": "error",
        "clock": "error",
    }
    assert "conditional writes are not known of careless://" in found["conditional write"].found
    assert found["clock"].found == "the store's is 86,400 s behind ours"
    assert Careless.store == {}


@given(st.floats(-2000, 2000), st.floats(0, 60))
def test_the_clock_is_judged_by_the_least_it_must_be_off(off, spent):
    begun = time.time()
    found = store.clock(begun + off, begun, begun + spent)
    least = max(-off, off - spent, 0.0)
    if abs(least - store.CLOCK_S) > 1e-3 and abs(least - STALE_S / 2) > 1e-3:
        expected = "ok" if least < store.CLOCK_S else "warning" if least < STALE_S / 2 else "error"
        assert found.state == expected
    if found.state != "ok":
        assert ("ahead of" if off > 0 else "behind") in found.found


def test_a_store_that_keeps_no_times_is_not_accused():
    assert store.clock(None, 0.0, 1.0).state == "ok"
