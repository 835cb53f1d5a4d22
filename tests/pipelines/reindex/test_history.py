"""The generations of a real small dataset: listed, gone back to, collected; what is kept answers as before."""

import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.reindex import publish
from pipelines.reindex.gc import collect
from pipelines.reindex.history import generations, rollback
from pipelines.reindex.lock import locked
from pipelines.reindex.named import missing, named
from pipelines.search import open_generation
from schemas.errors import BusyError, ConfigError, InputError
from schemas.layout import Layout
from schemas.manifests import Generation

FIELDS = {"schema_version", "kind", "number", "parent", "created"}


@pytest.fixture
def layout(published_levels_world) -> Layout:
    """Generation 1 is the real one; 2 and 3 name the same files, 3 is served."""
    layout = published_levels_world.layout
    first = publish.served(layout)
    for number, content in ((2, "b"), (3, "c")):
        fields = {name: getattr(first, name) for name in Generation.model_fields if name not in FIELDS}
        made = publish.write_generation(layout, fields | {"content": content}, parent=number - 1)
        publish.serve(layout, made.number, expected=number - 1)
    return layout


def test_the_newest_is_listed_first_and_one_is_served(layout):
    found = generations(layout)
    assert [(entry.number, entry.parent, entry.served) for entry in found] == [
        (3, 2, True),
        (2, 1, False),
        (1, None, False),
    ]
    assert {entry.items for entry in found} == {60}
    assert generations(Layout(layout.root, "none")) == []


def test_back_and_forth_and_nothing_else_changes(layout):
    before = files(layout)
    assert rollback(layout, dry_run=True) == 2
    assert publish.current(layout) == 3
    assert rollback(layout) == 2
    assert publish.current(layout) == 2
    assert rollback(layout) == 1
    with pytest.raises(InputError, match="generation 1 is the first"):
        rollback(layout)
    assert rollback(layout, 3) == 3
    assert files(layout) == before
    with pytest.raises(InputError, match="no generation 7; there are 1, 2, 3"):
        rollback(layout, 7)
    with pytest.raises(InputError, match="nothing is published yet"):
        rollback(Layout(layout.root, "none"))
    with locked(layout, "a run"), pytest.raises(BusyError):
        rollback(layout)


def test_a_generation_that_lost_a_file_is_not_served(layout):
    first = Generation.read(layout.generation(1))
    assert missing(layout, first) == []
    [lists] = [url for url in named(layout, first) if url.endswith("index.faiss")]
    Path(lists).unlink()
    with pytest.raises(InputError, match=r"1 of its files are gone, .*index\.faiss"):
        rollback(layout, 1)
    Path(layout.root, first.index).unlink()
    with pytest.raises(InputError, match="cannot be served"):
        rollback(layout, 1)
    assert publish.current(layout) == 3


def files(layout: Layout) -> dict[str, bytes]:
    """All there is of a dataset, but the lock."""
    found = (path for path in Path(layout.root).rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path): path.read_bytes() for path in found}


def litter(layout: Layout) -> list[Path]:
    """Files of no generation: an old index, a half-written part, a partial index of another training."""
    root = Path(layout.root)
    found = [
        root / "indexes" / layout.dataset / "0123456789abcdef" / "index.faiss",
        root / "embeddings" / layout.dataset / "0123" / "x.parquet.0123.tmp",
        root / "trained" / layout.dataset / "0123456789abcdef" / "trained.faiss",
        root / "reports" / layout.dataset / "000002" / "index.html",
    ]
    for path in found:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"litter")
    return found


def test_what_no_kept_generation_names_goes_and_the_rest_answers_as_before(layout):
    old = litter(layout)
    before = open_generation(layout).answer("colour 40c060", k=20)
    needed = named(layout, publish.served(layout))
    planned = collect(layout, 1, least_age_s=0, dry_run=True)
    assert all(path.exists() for path in old)
    done = collect(layout, 1, least_age_s=0)
    assert done == planned
    assert done.kept == (2, 3)  # the newest, and the one before what is served
    assert not any(path.exists() for path in old[:3])
    assert old[3].exists()
    assert not Path(layout.generation(1)).exists()
    assert needed <= set(files(layout))
    assert open_generation(layout).answer("colour 40c060", k=20) == before
    assert collect(layout, 1, least_age_s=0).removed == ()
    assert rollback(layout) == 2


def test_the_served_one_is_kept_however_old(layout):
    rollback(layout, 1)
    assert collect(layout, 1, least_age_s=0).kept == (1, 3)
    assert missing(layout, Generation.read(layout.generation(1))) == []


def test_young_files_stay(layout):
    old = litter(layout)
    assert collect(layout, 1).removed == ()
    yesterday = time.time() - 25 * 3600
    os.utime(old[0], (yesterday, yesterday))
    assert collect(layout, 1).removed == (str(old[0]),)


def test_it_refuses_what_makes_no_sense(layout):
    with pytest.raises(ConfigError, match="keep: expected 1 or more"):
        collect(layout, 0)
    with locked(layout, "a run"), pytest.raises(BusyError):
        collect(layout, 1)
    Path(layout.root, publish.served(layout).queries).unlink()
    before = files(layout)
    with pytest.raises(InputError):
        collect(layout, 1, least_age_s=0)
    assert files(layout) == before


def test_the_commands(layout):
    def say(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--root", layout.root])
        assert done.exit_code == 0, done.output
        return done.output

    assert "served" in say("generations", layout.dataset)
    assert "generation 2 is served" in say("rollback", layout.dataset)
    assert '"generation": 3' in say("rollback", layout.dataset, "3", "--json")
    assert "0 files, 0.0 MB would be removed; generations kept: 2, 3" in say(
        "gc", layout.dataset, "--keep", "2", "--dry-run"
    )
