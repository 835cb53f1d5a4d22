"""A download resumes, notices wrong sizes and other versions, and gives up with words that help."""

import json

import pytest

from pipelines.prepare.downloads import fetch
from schemas.errors import InputError

DATA = bytes(i * 7 % 251 for i in range(3_000_000))


def get(server, target, **options):
    return fetch(f"{server.url}/a.zip", target, progress=lambda have, total: None, wait_s=0.001, **options)


@pytest.fixture
def target(server, tmp_path):
    server.files["/a.zip"] = DATA
    return tmp_path / "sub" / "a.zip"


def test_a_file_arrives_whole_and_is_not_asked_for_again(server, target):
    assert get(server, target).read_bytes() == DATA
    get(server, target)
    assert len(server.asked) == 1
    assert [path.name for path in target.parent.iterdir()] == ["a.zip"]


def test_cut_connections_are_resumed_with_ranges(server, target):
    server.cuts = [1_000_000, 1_000_000]
    assert get(server, target, attempts=2).read_bytes() == DATA
    begun = [int(wanted[6:-1]) if wanted else 0 for _, wanted in server.asked]
    assert begun == sorted(begun)
    assert begun[0] == 0
    assert begun[2] > begun[1] > 0


def test_the_next_run_goes_on_where_a_failed_one_stopped(server, target):
    server.cuts, server.statuses = [1_500_000], [None, 503]
    with pytest.raises(InputError, match="503.*goes on from there"):
        get(server, target, attempts=1)
    assert not target.exists()
    assert get(server, target).read_bytes() == DATA
    assert server.asked[-1][1] is not None


def test_a_half_file_of_an_older_version_is_thrown_away(server, target):
    server.cuts, server.statuses = [1_500_000], [None, 503]
    with pytest.raises(InputError, match="503"):
        get(server, target, attempts=1)
    server.files["/a.zip"], server.etag = DATA[::-1], '"two"'
    assert get(server, target).read_bytes() == DATA[::-1]


def test_a_half_file_of_unknown_origin_is_not_trusted(server, target):
    target.parent.mkdir()
    target.with_name("a.zip.part").write_bytes(b"x" * 4_000_000)
    assert get(server, target).read_bytes() == DATA
    target.unlink()
    target.with_name("a.zip.part").write_bytes(b"x" * 10)
    target.with_name("a.zip.part.json").write_text(json.dumps({"url": "http://other/a.zip", "tag": '"one"'}))
    assert get(server, target).read_bytes() == DATA


def test_a_server_without_ranges_starts_over(server, target):
    server.ranges, server.cuts = False, [1_000_000]
    assert get(server, target).read_bytes() == DATA


def test_a_file_shorter_than_announced_is_never_taken_for_whole(server, target):
    server.extra_length = 5
    with pytest.raises(InputError, match="could not be downloaded"):
        get(server, target, attempts=3)
    assert not target.exists()


def test_a_busy_server_is_asked_again_and_a_refusal_is_final(server, target):
    server.statuses = [503, 429]
    assert get(server, target).read_bytes() == DATA
    target.unlink()
    server.statuses = [404]
    with pytest.raises(InputError, match="404"):
        get(server, target)
    assert len(server.asked) == 4


def test_progress_ends_at_the_announced_size(server, target):
    seen = []
    fetch(f"{server.url}/a.zip", target, progress=lambda have, total: seen.append((have, total)))
    assert seen[0] == (0, len(DATA))
    assert seen[-1] == (len(DATA), len(DATA))


def test_a_file_larger_than_the_disk_is_refused_before_it_is_written(server, target):
    server.extra_length = 1 << 60
    with pytest.raises(InputError, match="left"):
        get(server, target)
    assert not target.with_name("a.zip.part").exists()


def test_nobody_at_the_other_end_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="ConnectionError"):
        fetch("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", progress=lambda *_: None, wait_s=0.001)
