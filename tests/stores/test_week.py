"""A week of nights on a small demo: new, changed, deleted, poisoned items; answers as those of a build from scratch."""

import json
import re

import pytest

from schemas.layout import Layout
from schemas.stores import open_store
from tests.nights import Week, fastslow, make_week, read, write


@pytest.fixture(params=["folder", "s3"])
def week(request, tmp_path) -> Week:
    made = make_week(tmp_path)
    if request.param == "s3":
        made.root = request.getfixturevalue("s3")
    return made


@pytest.mark.slow
def test_a_week(week):
    first, log = week.night()
    assert first["published"] == 1
    assert "embedded 264" in log
    week.check(first)

    [new] = (week.folder / "other").rglob("scenes-*.tar")
    write(week.folder / "shards" / "new.tar", {f"new-{key}": members for key, members in read(new).items()})
    second, log = week.night()
    assert second["published"] == 2
    assert "shards: 1 added, 0 changed, 0 deleted, 14 unchanged" in log
    assert "append: 8 items more, 0 less" in log
    assert second["index"]["rows"] == 272
    week.check(second)

    renamed = read(week.shard(1))
    for key in list(renamed)[:5]:
        renamed[key]["json"] = json.dumps({"captions": [f"the picture that was {key}"]}).encode()
    write(week.shard(1), renamed)
    third, log = week.night()
    assert third["published"] == 3
    assert "reused 24" in log  # no picture has changed
    week.check(third)

    fewer = read(week.shard(2))
    gone = list(fewer)[::4] + list(read(week.shard(3)))
    write(week.shard(2), {key: members for key, members in fewer.items() if key not in gone})
    week.shard(3).unlink()
    fourth, log = week.night()
    assert "shards: 0 added, 1 changed, 1 deleted, 13 unchanged" in log
    assert fourth["published"] == 4
    assert fourth["index"]["rows"] == 272 - len(gone)
    week.check(fourth)
    good = week.answers()
    assert not set(gone) & set().union(*good.values())

    clean = read(week.shard(4))
    poisoned = {
        key: members | {"jpg": b"garbage"} if row % 10 < 3 else members
        for row, (key, members) in enumerate(clean.items())
    }
    write(week.shard(4), poisoned)
    _, log = week.night(code=3)
    assert re.search(r"rejects: 9 of 24 samples of scenes-00004\.tar are refused", log)
    assert week.served() == 4
    assert week.answers() == good
    fs, path = open_store(Layout(week.root, "week").report(5))
    assert b"this generation is not served" in fs.cat_file(path)
    assert fastslow("rollback", "week.yaml", "5", "--root", week.root, cwd=week.folder, code=1)

    write(week.shard(4), clean | {"one-more": read(new)[next(iter(read(new)))]})
    sixth, log = week.night()
    assert sixth["published"] == 6
    assert "reused 24" in log
    week.check(sixth)
    best = week.answers()

    again, _ = week.night()
    assert (again["published"], again["generation"], again["seconds"]) == (None, 6, {})
    fastslow("rollback", "week.yaml", "4", "--root", week.root, cwd=week.folder)
    assert week.served() == 4
    assert week.answers() == good
    fastslow("rollback", "week.yaml", "6", "--root", week.root, cwd=week.folder)
    assert week.answers() == best
