"""Shards have the same bytes every time, and a killed run goes on to the same bytes."""

import io
import tarfile
from pathlib import Path

import fsspec
import pytest

from pipelines.prepare.shard_writer import Packed, ShardPlan, prepared_folder, write_folder, write_tar
from schemas.errors import LedgerError
from schemas.layout import Layout


def samples(first, last):
    return [Packed(f"s{i:03d}", (("jpg", bytes([i]) * i), ("json", b"{}"))) for i in range(first, last)]


def plans(made=None):
    def make(first, last):
        if made is not None:
            made.append(first)
        return samples(first, last)

    return [
        ShardPlan("a-00000.tar", 3, lambda: make(0, 3)),
        ShardPlan("a-00001.tar", 2, lambda: make(3, 5)),
    ]


def write(folder, shard_plans, progress=lambda n: None):
    return write_folder(
        str(folder), shard_plans, dataset="d", config={"x": 1}, queries=b"text\nhi\n", query_rows=1,
        counts={"images": 5}, progress=progress,
    )  # fmt: skip


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_tar_holds_the_members_and_nothing_of_this_machine(tmp_path):
    assert write_tar(tmp_path / "x.tar", samples(1, 3)) == 2
    with tarfile.open(tmp_path / "x.tar") as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == ["s001.jpg", "s001.json", "s002.jpg", "s002.json"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
        assert tar.extractfile("s002.jpg").read() == b"\x02\x02"


def test_the_manifest_accounts_for_every_file(tmp_path):
    done = []
    manifest = write(tmp_path, plans(), done.append)
    assert [(entry.name, entry.rows) for entry in manifest.shards] == [("a-00000.tar", 3), ("a-00001.tar", 2)]
    assert [entry.size_bytes for entry in manifest.shards] == [
        (tmp_path / entry.name).stat().st_size for entry in manifest.shards
    ]
    assert sum(done) == 5


def test_a_killed_run_goes_on_behind_its_last_shard_and_ends_with_the_same_bytes(tmp_path):
    write(tmp_path / "whole", plans())

    def killed():
        yield samples(3, 4)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cut", [plans()[0], ShardPlan("a-00001.tar", 2, killed)])
    assert sorted(contents(tmp_path / "cut")) == ["a-00000.tar"]
    made = []
    write(tmp_path / "cut", plans(made))
    assert made == [3]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_plan_that_makes_too_few_samples_leaves_no_shard(tmp_path):
    with pytest.raises(LedgerError, match="expected 4 samples, got 3"):
        write(tmp_path, [ShardPlan("a.tar", 4, lambda: samples(0, 3))])
    assert not list(tmp_path.iterdir())


def test_another_config_gets_another_folder():
    layout = Layout("/root", "demo")
    one, other = prepared_folder(layout, {"seed": 1}), prepared_folder(layout, {"seed": 2})
    assert one != other
    assert one.startswith("/root/shards/demo/")


def test_shards_can_be_written_to_any_file_system(memory_root):
    manifest = write(f"{memory_root}/shards", plans())
    data = fsspec.open(f"{memory_root}/shards/{manifest.shards[0].name}", "rb")
    with data as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as tar:
        assert tar.getnames()[0] == "s000.jpg"
