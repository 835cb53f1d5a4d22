"""The plan names outputs by content and settings, knows what is missing, and asks neither torch nor Beam."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.embed.plan import plan
from schemas.configs import Captions, DatasetConfig, Embed, EncoderConfig
from schemas.errors import InputError
from schemas.jobs import Job

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def job(layout, tiny_clip) -> Job:
    return Job(
        DatasetConfig(name="tests", encoder="x"), EncoderConfig(path=str(tiny_clip), dtype="float32"), None, layout
    )


def test_all_shards_are_pending_until_they_have_a_manifest(tmp_path, kit, job):
    for number in range(3):
        kit.write_tar(tmp_path / f"s-{number}.tar", kit.picture_members(1, start=number))
    pattern = str(tmp_path / "s-{0..2}.tar")
    first = plan(job, [pattern])
    assert [Path(shard.url).name for shard in first.pending] == ["s-0.tar", "s-1.tar", "s-2.tar"]
    assert first.pending == first.shards
    done = Path(first.manifests[1])
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    second = plan(job, [pattern])
    assert [Path(shard.url).name for shard in second.pending] == ["s-0.tar", "s-2.tar"]
    assert second.manifests == first.manifests


def test_a_changed_shard_is_another_unit_and_its_old_manifest_is_no_part_of_the_plan(tmp_path, kit, job):
    path = kit.write_tar(tmp_path / "s.tar", kit.picture_members(1))
    old = plan(job, [str(path)])
    kit.write_tar(path, kit.picture_members(2))
    new = plan(job, [str(path)])
    assert old.folder == new.folder
    assert set(old.manifests).isdisjoint(new.manifests)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "another"},
        {"embed": Embed(frames=5)},
        {"embed": Embed(jpeg_scaling="exact")},
        {"embed": Embed(batch_size=9)},
        {"captions": Captions(members=("txt",))},
        {"key_scope": "shard"},
    ],
)
def test_what_changes_the_output_changes_its_name(recipe, change):
    base = dataclasses.replace(recipe, embed=Embed())
    assert dataclasses.replace(base, **change).digest != base.digest


def test_the_tolerated_share_of_rejects_does_not(recipe):
    other = dataclasses.replace(recipe, embed=recipe.embed.model_copy(update={"max_reject_fraction": 0.9}))
    assert other.digest == recipe.digest


def test_two_shards_that_would_be_one_file_are_refused(tmp_path, kit, job):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        kit.write_tar(tmp_path / folder / "s.tar", kit.picture_members(1))
    with pytest.raises(InputError, match="same name and content"):
        plan(job, [str(tmp_path / "{a,b}" / "s.tar")])


def test_asking_what_is_to_do_imports_nothing_heavy():
    script = (
        "import sys, pipelines.embed.plan, pipelines.embed.job, pipelines.embed.queries\n"
        "print(sorted({'torch', 'transformers', 'apache_beam', 'faiss', 'pandas', 'aiohttp'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPO, check=True)
    assert out.stdout.strip() == "[]"
