"""Create, replace and remove on a condition: whoever races, exactly one wins; lost answers and odd servers included."""

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import conditional
from schemas.commits import commit_json, exists, read_json
from schemas.errors import ConfigError, InputError
from schemas.layout import Layout

REPO = Path(__file__).resolve().parent.parent.parent
RACERS = 8


def raced(act: Callable[[int], object]) -> list[int]:
    """The racers to whom `act` gave something, all beginning at the same moment."""
    barrier = threading.Barrier(RACERS)

    def one(number: int) -> object:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(RACERS) as pool:
        return [number for number, won in enumerate(pool.map(one, range(RACERS))) if won]


def test_what_is_written_comes_back_with_the_tag_it_was_given(root):
    url = f"{root}/a/b"
    assert conditional.read(url) is None
    tag = conditional.create(url, b"one")
    assert conditional.read(url) == conditional.Tagged(b"one", tag)
    assert conditional.create(url, b"two") is None
    second = conditional.replace(url, b"two", tag=tag)
    assert conditional.replace(url, b"three", tag=tag) is None
    assert not conditional.remove(url, tag=tag)
    assert conditional.read(url) == conditional.Tagged(b"two", second)
    assert conditional.remove(url, tag=second)
    assert not exists(url)
    assert not conditional.remove(url, tag=second)
    assert conditional.replace(url, b"three", tag=second) is None
    assert conditional.create(url, b"") is not None
    assert conditional.read(url).data == b""


@given(st.lists(st.tuples(st.sampled_from(["create", "replace", "remove"]), st.integers(0, 3)), max_size=8))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_does_what_a_dictionary_with_versions_would(root, steps):
    url, held, tags, data = f"{root}/{uuid.uuid4().hex}", None, [], None
    for number, (verb, which) in enumerate(steps):
        tag = tags[-1 - which] if which < len(tags) else None
        if verb == "create":
            made = conditional.create(url, b"%d" % number)
            assert (made is not None) == (held is None)
        elif tag is None:
            continue
        elif verb == "replace":
            made = conditional.replace(url, b"%d" % number, tag=tag)
            assert (made is not None) == (held == tag)
        else:
            assert conditional.remove(url, tag=tag) == (held == tag)
            held, made = (None if held == tag else held), None
        if made is not None:
            held, data = made, b"%d" % number
            tags.append(made)
        found = conditional.read(url)
        assert found == (None if held is None else conditional.Tagged(data, held))


def test_of_many_threads_one_creates_one_replaces_one_removes(root):
    for attempt in range(3):
        url = f"{root}/{attempt}"
        [winner] = raced(lambda number: conditional.create(url, b"%d" % number))  # noqa: B023
        held = conditional.read(url)
        assert held.data == b"%d" % winner
        [winner] = raced(lambda number: conditional.replace(url, b"again %d" % number, tag=held.tag))  # noqa: B023
        held = conditional.read(url)
        assert held.data == b"again %d" % winner
        removed = raced(lambda _: conditional.remove(url, tag=held.tag))  # noqa: B023
        assert len(removed) == 1 or root.startswith("gs:")  # the emulator ignores the condition of a removal
        assert not exists(url)


COUNT = """
import json, sys
from schemas import conditional
url = sys.argv[1]
for _ in range(10):
    while True:
        held = conditional.read(url)
        value = json.dumps(json.loads(held.data) + 1).encode()
        if conditional.replace(url, value, tag=held.tag):
            break
"""


@pytest.mark.parametrize(
    "kind", ["local", pytest.param("s3", marks=pytest.mark.slow), pytest.param("gcs", marks=pytest.mark.slow)]
)
def test_processes_that_count_together_lose_no_step(request, kind, tmp_path):
    url = f"{tmp_path if kind == 'local' else request.getfixturevalue(kind)}/counter"
    assert commit_json(url, 0)
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    racers = [subprocess.Popen([sys.executable, "-c", COUNT, url], env=environment) for _ in range(3)]
    assert [racer.wait(timeout=60) for racer in racers] == [0, 0, 0]
    assert read_json(url) == 30


def test_a_write_whose_answer_was_lost_is_known_as_ones_own(s3, s3_server):
    url = f"{s3}/x"
    s3_server.faults({"kind": "lost", "method": "PUT", "times": 1})
    tag = conditional.create(url, b"mine")  # sent again, and refused by its own success
    assert conditional.read(url) == conditional.Tagged(b"mine", tag)
    s3_server.faults({"kind": "lost", "method": "PUT", "times": 1})
    tag = conditional.replace(url, b"mine again", tag=tag)
    assert conditional.read(url) == conditional.Tagged(b"mine again", tag)


def test_a_conflict_is_neither_yes_nor_no(s3, s3_server):
    s3_server.faults({"kind": "ConditionalRequestConflict", "status": 409, "method": "PUT", "times": 3})
    assert conditional.create(f"{s3}/x", b"1") is not None
    s3_server.faults({"kind": "ConditionalRequestConflict", "status": 409, "method": "PUT", "times": 3})
    assert conditional.create(f"{s3}/x", b"1") is None


def test_a_refusal_need_not_name_its_condition(s3, s3_server):
    assert conditional.create(f"{s3}/x", b"1") is not None
    s3_server.faults({"kind": "anonymous"})
    assert conditional.create(f"{s3}/x", b"1") is None


@pytest.mark.parametrize("fault", [{"kind": "SlowDown", "status": 503}, {"kind": "cut"}])
def test_what_fails_in_passing_is_read_again(s3, s3_server, fault):
    commit_json(f"{s3}/x", list(range(1000)))
    s3_server.faults(fault | {"method": "GET", "times": 2})
    assert read_json(f"{s3}/x") == list(range(1000))


@pytest.mark.parametrize("fault", [{"kind": "ignore"}, {"kind": "NotImplemented", "status": 501, "method": "PUT"}])
def test_a_store_that_does_not_keep_conditions_is_refused(s3, s3_server, fault):
    layout = Layout(s3, "d")
    s3_server.faults(fault)
    with pytest.raises(ConfigError, match="does not keep the conditions of a write"):
        conditional.refuse_unconditional(layout)
    s3_server.faults()
    conditional.refuse_unconditional(layout)
    asked = s3_server.counts()["PUT"]
    conditional.refuse_unconditional(layout)  # remembered
    assert s3_server.counts()["PUT"] == asked


def test_other_file_systems_are_refused_as_roots():
    with pytest.raises(ConfigError, match="not known of ftp://; --root may be a folder, s3:// or gs://"):
        raise conditional._Other(type("Ftp", (), {"protocol": "ftp"})())._unknown()


def test_gcs_keeps_the_conditions(gcs):
    conditional.refuse_unconditional(Layout(gcs, "d"))


def test_a_bucket_that_is_not_there_is_named(remote):
    missing = remote.replace("bucket-", "other-")
    with pytest.raises(InputError, match="other-.*: no such bucket"):
        conditional.read(f"{missing}/x")
    with pytest.raises(InputError, match="other-.*: no such bucket"):
        conditional.create(f"{missing}/x", b"1")


def test_access_denied_says_what_is_needed(s3, s3_server):
    s3_server.faults({"kind": "AccessDenied", "status": 403})
    with pytest.raises(InputError, match=r"s3://.*/x: access denied .*must allow to list the bucket"):
        conditional.read(f"{s3}/x")


def test_without_the_library_the_extra_is_named():
    script = "import sys; sys.modules['s3fs'] = None\nfrom schemas.commits import read_json\nread_json('s3://b/x')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPO)
    assert "ConfigError: s3://b/x: the library for s3:// is missing: pip install 'fastslow[s3]'" in done.stderr


def test_values_written_are_json_like_everywhere(root):
    assert commit_json(f"{root}/m", {"b": 1, "a": [2]})
    assert not commit_json(f"{root}/m", {"b": 2})
    assert json.loads(conditional.read(f"{root}/m").data) == {"a": [2], "b": 1}
