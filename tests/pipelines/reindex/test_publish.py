"""CURRENT names a whole generation at any moment, and moves only from where the plan started."""

import pytest

from pipelines.reindex import publish
from schemas.errors import BusyError, InputError
from schemas.layout import Layout
from schemas.manifests import Counts

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
def layout(tmp_path) -> Layout:
    return Layout(str(tmp_path), "d")


def write(layout: Layout, content: str, parent: int | None):
    return publish.write_generation(layout, FIELDS | {"content": content}, parent=parent)


def test_before_the_first_there_is_none(layout):
    assert publish.current(layout) is None
    assert publish.served(layout) is None
    assert publish.numbers(layout) == []


def test_a_generation_is_served_after_the_pointer_moved(layout):
    first = write(layout, "a", None)
    assert publish.served(layout) is None
    publish.serve(layout, first.number, expected=None)
    assert publish.served(layout) == first


def test_numbers_rise_and_nothing_is_overwritten(layout):
    first = write(layout, "a", None)
    publish.serve(layout, 1, expected=None)
    second = write(layout, "b", 1)
    assert (first.number, second.number) == (1, 2)
    assert publish.numbers(layout) == [1, 2]


def test_a_run_killed_before_serving_takes_its_generation_up_again(layout):
    killed = write(layout, "a", None)
    assert write(layout, "a", None) == killed
    assert write(layout, "other", None).number == 2


def test_the_pointer_does_not_move_when_somebody_else_was_first(layout):
    write(layout, "a", None)
    publish.serve(layout, 1, expected=None)
    write(layout, "b", None)
    with pytest.raises(BusyError, match=r"generation 1 was published meanwhile \(planned on None\)"):
        publish.serve(layout, 2, expected=None)
    assert publish.current(layout) == 1


def test_a_pointer_to_nothing_is_never_written(layout):
    with pytest.raises(InputError, match="not found"):
        publish.serve(layout, 7, expected=None)
    assert publish.current(layout) is None


def test_a_damaged_pointer_is_named(layout, tmp_path):
    (tmp_path / "CURRENT").mkdir()
    (tmp_path / "CURRENT" / "d").write_text('{"generation": "seven"}')
    with pytest.raises(InputError, match=r"CURRENT/d: expected"):
        publish.current(layout)
