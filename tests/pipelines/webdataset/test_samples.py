"""Grouping by the WebDataset convention; what does not fit is a reject, and nothing is lost."""

import gzip
import io
import json
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys

from pipelines.webdataset.samples import ReadCounts, read_samples
from schemas.configs import Captions, Embed
from schemas.errors import InputError
from schemas.rejects import Reject
from schemas.samples import Sample

CAPTIONS = Captions()
EMBED = Embed()


def pack(*members):
    """Tar bytes of (name, content) pairs; a content of None is a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


def read(data, *, captions=CAPTIONS, key_scope="dataset", embed=EMBED):
    """(samples, rejects, counts)."""
    counts = ReadCounts()
    source = data if isinstance(data, str) else io.BytesIO(data)
    out = list(read_samples(source, shard="s.tar", captions=captions, key_scope=key_scope, embed=embed, counts=counts))
    samples = [item for item in out if isinstance(item, Sample)]
    rejects = [item for item in out if isinstance(item, Reject)]
    assert (counts.samples, counts.rejects) == (len(samples), len(rejects))
    assert [item.position for item in out if item.position >= 0] == list(range(sum(i.position >= 0 for i in out)))
    return samples, rejects, counts


def test_members_of_one_key_are_one_sample_with_its_place_in_the_tar():
    data = pack(
        ("x/a.jpg", b"JPEG"), ("x/a.txt", b" a cat\n"), ("x/a.json", b'{"caption": "one", "n": 1}'), ("b.mp4", b"M")
    )

    samples, rejects, counts = read(data)

    a, b = samples
    assert (a.key, a.suffix, a.data, a.captions, a.metadata) == (
        "x/a", "jpg", b"JPEG", ("a cat", "one"), '{"caption": "one", "n": 1}',
    )  # fmt: skip
    assert data[a.offset : a.offset + a.size] == b"JPEG"
    assert (b.key, b.position, b.captions) == ("b", 1, ())
    assert rejects == []
    assert (counts.members, counts.ignored_members, counts.caption_errors) == (4, 0, 0)


def test_keys_end_at_the_first_dot_and_suffixes_are_lower_case():
    samples, _, _ = read(pack(("v1.0/a.JPG", b"1"), ("v1.0/b.seg.png", b"2")))
    assert [(s.key, s.suffix) for s in samples] == [("v1.0/a", "jpg"), ("v1.0/b", "png")]


parts = st.text("ab.", min_size=1, max_size=4).filter(lambda text: text not in (".", ".."))
file_names = st.tuples(
    st.sampled_from(["", "d/", "d.e/"]), parts, st.sampled_from(["jpg", "txt", "seg.png", "PNG"])
).map(lambda part: f"{part[0]}{part[1]}.{part[2]}")


@settings(max_examples=100, deadline=None)
@given(st.lists(file_names, max_size=8, unique_by=str.lower))
def test_keys_are_those_of_the_webdataset_library(names):
    visible = [name for name in names if not name.rpartition("/")[2].startswith(".")]  # there, "d/.a.jpg" has key "d/"
    files = [{"fname": name, "data": b"1", "__url__": "s.tar"} for name in visible]
    expected = [group["__key__"] for group in group_by_keys(files)]

    samples, rejects, _ = read(pack(*[(name, b"1") for name in names]))

    ours = [(s.position, s.key) for s in samples]
    ours += [(r.position, r.key) for r in rejects if r.error != "SecondVisualMember"]
    assert [key for _, key in sorted(ours)] == expected


def test_a_key_that_comes_back_later_is_reported():
    samples, rejects, _ = read(pack(("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"late")))
    assert [s.key for s in samples] == ["a", "b"]
    assert [(r.key, r.error, r.position) for r in rejects] == [("a", "SplitKey", 2)]


def test_a_sample_without_a_picture_is_a_reject():
    samples, rejects, _ = read(pack(("a.txt", b"words"), ("a.npy", b"\x93NUMPY"), ("b.jpg", b"1")))
    assert [s.key for s in samples] == ["b"]
    assert [(r.key, r.error) for r in rejects] == [("a", "NoVisualMember")]


def test_of_several_pictures_one_counts_and_the_rest_is_reported():
    samples, rejects, _ = read(
        pack(("a.seg.png", b"mask"), ("a.jpg", b"first"), ("a.png", b"second"), ("a.jpg", b"third"))
    )
    assert [(s.suffix, s.data) for s in samples] == [("jpg", b"first")]
    assert [(r.key, r.error, r.size) for r in rejects] == [
        ("a", "SecondVisualMember", 6),
        ("a", "SecondVisualMember", 5),
    ]


def test_a_video_comes_before_its_thumbnail_without_a_reject():
    samples, rejects, _ = read(pack(("a.jpg", b"thumb"), ("a.mp4", b"video")))
    assert [(s.suffix, s.data) for s in samples] == [("mp4", b"video")]
    assert rejects == []


def test_names_with_dots_that_fall_together_are_reported_not_lost():
    samples, rejects, _ = read(pack(("IMG.0001.jpg", b"1"), ("IMG.0002.jpg", b"2"), ("IMG.0003.jpg", b"3")))
    assert [s.key for s in samples] == ["IMG"]
    assert [r.error for r in rejects] == ["SecondVisualMember"] * 2


def test_what_belongs_to_no_sample_is_counted():
    data = pack(("d", None), (".DS_Store", b"1"), ("README", b"2"), ("__meta__/x.jpg", b"3"), ("d/a.jpg", b"4"))
    samples, rejects, counts = read(data)
    assert [s.key for s in samples] == ["d/a"]
    assert rejects == []
    assert (counts.members, counts.ignored_members) == (5, 4)


def test_key_scope_shard_puts_the_shard_before_the_key():
    assert read(pack(("a.jpg", b"1")), key_scope="shard")[0][0].key == "s/a"


def test_a_picture_above_the_limit_is_a_reject_with_its_size():
    samples, rejects, _ = read(pack(("a.jpg", b"x" * 11), ("b.mp4", b"x" * 11)), embed=Embed(max_image_bytes=10))
    assert [s.key for s in samples] == ["b"]
    assert [(r.key, r.error, r.size) for r in rejects] == [("a", "TooManyBytes", 11)]


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("txt", b"\xff\xfe\xfa"),
        ("txt", b"x" * (2 << 20)),
        ("json", b"{broken"),
        ("json", b"[" * 100_000 + b"]" * 100_000),
        ("json", b'{"caption": 5}'),
        ("json", b'["a list"]'),
        ("json", b'{"n": ' + b"9" * 5000 + b"}"),
        ("json", b"\xff"),
    ],
)
def test_a_caption_that_cannot_be_read_is_counted_and_its_picture_kept(suffix, content):
    samples, rejects, counts = read(pack(("a.jpg", b"1"), (f"a.{suffix}", content)))
    assert [(s.key, s.captions) for s in samples] == [("a", ())]
    assert rejects == []
    assert counts.caption_errors == 1


def test_captions_come_from_the_configured_members_and_fields():
    members = (
        ("a.jpg", b"1"),
        ("a.cls", b"7"),
        ("a.txt", b"no"),
        ("a.json", json.dumps({"alt": ["x", "x", ""], "caption": "y"}).encode()),
    )
    captions = Captions(members=("json", "cls"), fields=("alt", "missing"))
    assert read(pack(*members), captions=captions)[0][0].captions == ("x", "x", "7")


def test_a_caption_in_two_members_counts_once_and_twice_in_one_list_counts_twice():
    data = pack(
        ("a.jpg", b"1"), ("a.txt", b"same"), ("a.json", b'{"caption": "same", "text": null, "captions": ["p", "p"]}')
    )
    assert read(data)[0][0].captions == ("same", "p", "p")


def test_texts_and_names_are_such_that_utf8_can_hold_them():
    data = pack(("\udcff\udcfe.jpg", b"1"), ("\udcff\udcfe.json", b'{"caption": "lone \\ud800 surrogate"}'))
    sample = read(data)[0][0]
    assert sample.key == "\\xff\\xfe"
    assert sample.captions == ("lone ? surrogate",)


def test_every_cut_of_a_shard_gives_its_good_part_and_one_reject():
    data = pack(*[(f"{i}.{suffix}", bytes([i]) * 600) for i in range(3) for suffix in ("jpg", "txt")])
    whole, _, _ = read(data)
    for cut in range(0, 6 * 1536 + 1024, 37):
        samples, rejects, _ = read(data[:cut])
        assert [s.data for s in samples] == [s.data for s in whole if s.offset + s.size <= cut], cut
        assert [(r.position, r.error) for r in rejects] == [(-1, "TarError")], cut
        assert rejects[0].offset <= cut


@pytest.mark.parametrize("damage", [0, 1], ids=["whole", "cut"])
def test_compressed_shards_are_read_by_suffix(tmp_path, damage):
    data = pack(("a.jpg", b"1" * 500), ("b.jpg", bytes(range(256)) * 20))
    packed = gzip.compress(data)
    path = tmp_path / "s.tar.gz"
    path.write_bytes(packed[: len(packed) - 200 * damage])
    samples, rejects, _ = read(str(path))
    assert [s.key for s in samples] == (["a"] if damage else ["a", "b"])
    assert len(rejects) == damage
    assert data[samples[0].offset :][: samples[0].size] == samples[0].data


def test_a_missing_shard_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such shard"):
        read(str(tmp_path / "absent.tar"))


def test_many_pictures_of_one_key_are_not_all_held():
    """A hostile shard: one key, endless pictures; only the first keeps its bytes."""
    picture = bytes(1 << 20)
    data = pack(*[(f"a.{i}.jpg", picture) for i in range(40)])
    tracemalloc.start()
    samples, rejects, _ = read(data)
    peak = tracemalloc.get_traced_memory()[1] - len(data)
    tracemalloc.stop()
    assert (len(samples), len(rejects)) == (1, 39)
    assert peak < 6 << 20
