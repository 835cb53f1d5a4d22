"""The embed stage with a real (tiny, random) CLIP: all done, nothing to do, gates, resume after a kill."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.embed.job import run, total
from schemas.configs import DatasetConfig, Embed, EncoderConfig
from schemas.embeddings import read_parts
from schemas.errors import GateError, InputError
from schemas.jobs import Job
from schemas.manifests import EmbeddingManifest

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def job(layout, tiny_clip) -> Job:
    config = DatasetConfig(name="tests", encoder="x", embed=Embed(batch_size=4))
    return Job(config, EncoderConfig(path=str(tiny_clip), dtype="float32"), None, layout)


def with_embed(job: Job, **changes) -> Job:
    embed = job.dataset.embed.model_copy(update=changes)
    return dataclasses.replace(job, dataset=job.dataset.model_copy(update={"embed": embed}))


def contents(root: str) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted((Path(root) / "embeddings").rglob("*")) if p.is_file()
    }


def test_vectors_are_those_of_the_model(tmp_path, kit, job, layout):
    import torch

    from encoders.decoding import DecodeLimits, decode
    from encoders.registry import load_dual

    kit.write_tar(tmp_path / "s-0.tar", kit.picture_members(9))
    kit.write_tar(tmp_path / "s-1.tar", [*kit.picture_members(3, start=9), ("clip.gif", kit.moving_gif(3))])
    done = run(job, [str(tmp_path / "s-{0,1}.tar")])
    assert done.pending == ()
    first, second = read_parts(done.manifests, ["key"])
    assert total([first.manifest, second.manifest]).videos == 1
    encoder = load_dual(job.encoder, layout=layout)
    for number, vector in enumerate(first.vectors):
        picture = decode(
            kit.jpeg(number),
            suffix="jpg",
            spec=encoder.pixels,
            frames=1,
            limits=DecodeLimits.of(Embed()),
            jpeg_scaling="fast",
        )
        exact = encoder.encode_visual(torch.from_numpy(np.stack([picture.pixels])))["embedding"][0]
        np.testing.assert_allclose(vector, exact, atol=1e-3)


def test_a_second_run_does_nothing_and_needs_no_torch(tmp_path, kit, job, tiny_clip):
    kit.write_tar(tmp_path / "s-0.tar", kit.picture_members(5))
    run(job, [str(tmp_path / "s-0.tar")])
    before = contents(job.layout.root)
    script = f"""
import sys
from pipelines.embed.job import run
from schemas.configs import *; from schemas.jobs import Job; from schemas.layout import Layout
config = DatasetConfig(name="tests", encoder="x", embed=Embed(batch_size=4))
job = Job(config, EncoderConfig(path={str(tiny_clip)!r}, dtype="float32"), None, Layout({job.layout.root!r}, "tests"))
run(job, [{str(tmp_path / "s-0.tar")!r}])
print(sorted({{'torch', 'transformers', 'apache_beam'}} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPO, check=True)
    assert out.stdout.strip() == "[]"
    assert contents(job.layout.root) == before


def test_a_new_shard_is_the_only_work_and_a_removed_one_is_forgotten(tmp_path, kit, job):
    for number in range(2):
        kit.write_tar(tmp_path / f"s-{number}.tar", kit.picture_members(4, start=10 * number))
    run(job, [str(tmp_path / "s-0.tar")])
    before = contents(job.layout.root)
    done = run(job, [str(tmp_path / "s-*.tar")])
    assert len(done.manifests) == 2
    assert before.items() <= contents(job.layout.root).items()
    assert [Path(m).name[:3] for m in run(job, [str(tmp_path / "s-1.tar")]).manifests] == ["s-1"]


def test_too_many_rejects_stop_the_job_with_counts_reasons_and_the_way_out(tmp_path, kit, job):
    bad = [(f"bad{n}.jpg", b"not a picture") for n in range(3)]
    kit.write_tar(tmp_path / "s.tar", [*kit.picture_members(5), *bad, ("lonely.txt", b"words")])
    with pytest.raises(
        GateError, match="4 of 9 samples.*44.4%.*at most 10.0%.*3 decode/NotAnImage.*bad0: expected JPEG.*max_reject"
    ):
        run(job, [str(tmp_path / "s.tar")])
    done = run(with_embed(job, max_reject_fraction=0.5), [str(tmp_path / "s.tar")])
    assert EmbeddingManifest.read(done.manifests[0]).counts.embedded == 5


def test_a_shard_that_breaks_off_is_warned_of_once_and_what_comes_before_is_embedded(tmp_path, kit, job, caplog):
    cut, whole = tmp_path / "s-0.tar", tmp_path / "s-1.tar"
    kit.write_tar(cut, kit.picture_members(20))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2 // 512 * 512])
    kit.write_tar(whole, kit.picture_members(20, start=20))
    done = run(job, [str(tmp_path / "s-*.tar")])
    counts = total(EmbeddingManifest.read_all(done.manifests))
    assert (counts.rejected, counts.embedded < 40) == (1, True)
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("s-0.tar: ")
    assert warning.endswith(f"; {counts.embedded - 20} items of it are embedded")
    caplog.clear()
    run(job, [str(tmp_path / "s-*.tar")])
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_nothing_but_rejects_is_refused_however_tolerant(tmp_path, kit, job):
    kit.write_tar(tmp_path / "s.tar", [("bad.jpg", b"not a picture")])
    with pytest.raises(GateError, match="1 of 1 samples"):
        run(with_embed(job, max_reject_fraction=1.0), [str(tmp_path / "s.tar")])


def test_no_samples_at_all_are_an_error(tmp_path, kit, job):
    kit.write_tar(tmp_path / "s.tar", [])
    with pytest.raises(InputError, match="no samples in 1 shards"):
        run(job, [str(tmp_path / "s.tar")])


def test_a_key_in_two_shards_is_refused_by_name_unless_keys_are_per_shard(tmp_path, kit, job):
    kit.write_tar(tmp_path / "s-0.tar", kit.picture_members(4))
    kit.write_tar(tmp_path / "s-1.tar", kit.picture_members(4, start=3))
    with pytest.raises(InputError, match=r"the same key: 'p000003' in .*s-0.tar and 'p000003' in .*s-1.tar.*key_scope"):
        run(job, [str(tmp_path / "s-*.tar")])
    scoped = dataclasses.replace(job, dataset=job.dataset.model_copy(update={"key_scope": "shard"}))
    [first, second] = read_parts(run(scoped, [str(tmp_path / "s-*.tar")]).manifests, ["key"])
    assert first.table.column("key").to_pylist()[3] == "s-0/p000003"
    assert second.table.column("key").to_pylist()[0] == "s-1/p000003"


SCRIPT = """
import sys
from pipelines.embed import shard
from pipelines.embed.job import run
from schemas.configs import *; from schemas.jobs import Job; from schemas.layout import Layout
import time, pipelines.embed.encoding as encoding
decode = encoding.decode
encoding.decode = lambda *a, **k: (time.sleep(0.01), decode(*a, **k))[1]  # leaves time to be killed in
config = DatasetConfig(name="tests", encoder="x", embed=Embed(batch_size=4))
model, root, pattern = sys.argv[1:]
job = Job(config, EncoderConfig(path=model, dtype="float32"), None, Layout(root, "tests"))
run(job, [pattern], lanes=2)
"""


def start(job: Job, tiny_clip: Path, pattern: str) -> subprocess.Popen:
    arguments = [sys.executable, "-c", SCRIPT, str(tiny_clip), job.layout.root, pattern]
    return subprocess.Popen(arguments, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_at_any_point_and_run_again_it_ends_with_the_same_bytes(tmp_path, kit, job, tiny_clip, signal_number):
    for number in range(6):
        kit.write_tar(tmp_path / f"s-{number}.tar", kit.picture_members(30, start=100 * number))
    pattern = str(tmp_path / "s-*.tar")
    whole = dataclasses.replace(job, layout=dataclasses.replace(job.layout, root=str(tmp_path / "whole")))
    run(whole, [pattern])

    process = start(job, tiny_clip, pattern)
    deadline = time.monotonic() + 300
    while len(list(Path(job.layout.root).glob("embeddings/**/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal_number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    if signal_number == signal.SIGINT:
        assert b"KeyboardInterrupt" in errors.splitlines()[-1]
    stopped = contents(job.layout.root)
    assert 2 <= sum(name.endswith(".json") for name in stopped) < 6
    run(job, [pattern])
    assert contents(job.layout.root) == contents(whole.layout.root)
