"""Shards and query log of a small dataset: well, and spoilt in the ways that end a night."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipelines.doctor import dataset
from pipelines.jobs import resolve_job
from schemas.jobs import Job


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 5 % 256, 90, 160)).save(out, "JPEG")
    return out.getvalue()


def write(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def members(shard: int, count: int = 4, caption: bool = True) -> list[tuple[str, bytes]]:
    keys = [f"picture-{shard:02d}-{number}" for number in range(count)]
    pairs = [(f"{key}.jpg", picture(number)) for number, key in enumerate(keys)]
    texts = [(f"{key}.txt", f"picture {key}".encode()) for key in keys]
    return [member for both in zip(pairs, texts, strict=True) for member in (both if caption else both[:1])]


@pytest.fixture
def job(tmp_path):
    """(settings of the dataset's config) -> a job over eight shards of four pictures."""

    def make(**settings: object) -> Job:
        for shard in range(8):
            write(tmp_path / f"shard-{shard:02d}.tar", members(shard))
        config = {"name": "toy", "shards": [str(tmp_path / "shard-{00..07}.tar")], "encoder": "demo-loopitr"}
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config | settings))
        return resolve_job(str(tmp_path / "toy.yaml"), root=str(tmp_path / "root"))

    return make


def test_a_sound_dataset_is_well_and_only_some_of_it_is_read(job, tmp_path):
    found = dataset.look(job())
    assert [(one.check, one.state) for one in found.findings] == [("shards", "ok"), ("queries", "ok")]
    size = (tmp_path / "shard-00.tar").stat().st_size
    assert found.findings[0].found.startswith("8 shards, about ")
    assert found.findings[0].found.endswith("; 5 of them read, 20 samples, 0 refused")
    assert len(found.shards) == 8
    assert found.size_bytes == 8 * size
    assert not (tmp_path / "root").exists()


def test_what_is_still_to_be_prepared_is_well(tmp_path):
    found = dataset.look(resolve_job("demo", root=str(tmp_path)))
    assert [(one.check, one.state) for one in found.findings] == [("shards", "ok")]
    assert "to be prepared (demo)" in found.findings[0].found
    assert list(tmp_path.iterdir()) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1500])


def pack_nothing(path: Path) -> None:
    write(path, [("readme", b"no suffix"), ("folder/.hidden", b"x"), ("a.txt", b"a text without a picture")])


def no_tar(path: Path) -> None:
    path.write_bytes(b"<html>404 not found</html>" * 40)


SPOILT = [
    pytest.param(cut, "is cut at byte", id="cut off"),
    pytest.param(pack_nothing, "no picture or video", id="no samples"),
    pytest.param(no_tar, "damaged header", id="no tar"),
    pytest.param(Path.unlink, "no such shard", id="gone"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT)
@pytest.mark.parametrize("which", ["first", "last"])
def test_a_shard_that_cannot_be_used_is_named_with_the_reason(job, spoil, said, which, tmp_path):
    made = job()
    path = tmp_path / ("shard-00.tar" if which == "first" else "shard-07.tar")
    spoil(path)
    [found, *_] = dataset.look(made).findings
    assert (found.check, found.state) == ("shards", "error")
    assert str(path) in found.found
    assert said in found.found


def test_a_compressed_shard_that_was_cut_off_is_named(job, tmp_path):
    whole = gzip.compress((Path(write(tmp_path / "one.tar", members(0)))).read_bytes())
    (tmp_path / "one.tar.gz").write_bytes(whole[: len(whole) // 2])
    [found, *_] = dataset.look(job(shards=[str(tmp_path / "one.tar.gz")])).findings
    assert (found.state, "damaged compression" in found.found) == ("error", True)


def test_a_folder_in_the_place_of_shards_is_told_apart(job, tmp_path):
    [found] = dataset.look(job(shards=[str(tmp_path)])).findings
    assert (found.state, "is a folder; write" in found.found) == ("error", True)
    [found] = dataset.look(job(shards=[])).findings
    assert (found.state, "expected shards" in found.found) == ("error", True)


def test_many_samples_that_would_be_refused_are_a_warning_with_an_example(job, tmp_path):
    made = job()
    double = [(f"a.{number}.jpg", picture(number)) for number in range(9)]  # one key, nine pictures
    write(tmp_path / "shard-07.tar", double)
    [found, *_] = dataset.look(made).findings
    assert found.state == "warning"
    assert "8 refused, such as: 'a.1.jpg' is a second picture of key 'a'" in found.found
    assert dataset.look(job(embed={"max_reject_fraction": 0.9})).findings[0].state == "ok"


def test_without_a_log_and_without_captions_there_are_no_queries(job, tmp_path):
    made = job()
    for shard in range(8):
        write(tmp_path / f"shard-{shard:02d}.tar", members(shard, caption=False))
    found = dataset.look(made).findings[1]
    assert (found.check, found.state) == ("queries", "error")
    assert "no sample has one" in found.found


@pytest.mark.parametrize(
    ("name", "content", "state", "said"),
    [
        ("log.tsv", "text\ncount\n".replace("count", "a red car"), "ok", "1 distinct"),
        ("log.tsv", "", "error", "no query in it"),
        ("log.tsv", "q1\ta cat\nq2\n", "error", "line 2: expected 2 columns"),
        ("log.jsonl", '{"text": "a cat"}\n{"text"\n', "error", "line 2: not JSON"),
        ("log.jsonl", '{"text": "a cat", "count": -3}\n', "error", "count: expected a whole number"),
        ("log.parquet", "no parquet", "error", "cannot be read as Parquet"),
        ("log.txt", "a cat", "error", "expected .tsv, .jsonl or .parquet"),
        ("gone/log.tsv", None, "error", "query log not found"),
    ],
)
def test_the_query_log_is_read_as_a_run_would_read_it(job, tmp_path, name, content, state, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    found = dataset.look(job(queries={"log": str(tmp_path / name)})).findings[1]
    assert (found.check, found.state) == ("queries", state)
    assert said in found.found
