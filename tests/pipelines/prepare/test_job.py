"""The resolver does what the dataset config says, once."""

import pytest

from pipelines.prepare import demo, job
from pipelines.prepare.job import Prepared
from schemas.configs import DatasetConfig, EncoderConfig, PrepareCoco, PrepareDemo, Queries, find, load
from schemas.errors import ConfigError
from schemas.jobs import Job
from schemas.layout import Layout


def make_job(root, **options):
    config = DatasetConfig(name="demo", encoder="demo-loopitr", **options)
    return Job(config, EncoderConfig(path="builtin:demo-loopitr"), None, Layout(str(root), "demo"))


DEMO = PrepareDemo(images=8, videos=4, images_per_shard=4, seed=3)


def test_the_demo_is_made_once(tmp_path, monkeypatch):
    work = make_job(tmp_path, prepare=DEMO)
    assert job.pending(work)
    assert not list(tmp_path.iterdir())
    first = job.run(work)
    assert [url.rsplit("/", 1)[1] for url in first.shards] == [
        "scenes-00000.tar", "scenes-00001.tar", "clips-00000.tar"
    ]  # fmt: skip
    assert first.queries == first.shards[0].replace("scenes-00000.tar", "queries.tsv")
    assert not job.pending(work)
    monkeypatch.setattr(demo, "prepare_demo", None)
    assert job.run(work) == first


def test_another_seed_leaves_the_shards_of_the_first_alone(tmp_path):
    first = job.run(make_job(tmp_path, prepare=DEMO))
    other = job.run(make_job(tmp_path, prepare=DEMO.model_copy(update={"seed": 4})))
    assert not set(first.shards) & set(other.shards)
    assert job.run(make_job(tmp_path, prepare=DEMO)) == first


def test_shards_and_logs_of_ones_own_come_before_what_could_be_prepared(tmp_path):
    own = make_job(tmp_path, prepare=DEMO, shards=("a-{00..09}.tar",), queries=Queries(log="q.tsv"))
    assert not job.pending(own)
    assert job.run(own) == Prepared(("a-{00..09}.tar",), "q.tsv")
    assert job.run(make_job(tmp_path, prepare=DEMO, queries=Queries(log="q.tsv"))).queries == "q.tsv"


def test_neither_shards_nor_prepare_is_a_mistake_in_the_config(tmp_path):
    with pytest.raises(ConfigError, match="pass --shards"):
        job.run(make_job(tmp_path))


def test_coco_is_fetched_and_packed(tmp_path, server, small_coco):
    server.files = {"/val2017.zip": small_coco.images, "/annotations_trainval2017.zip": small_coco.annotations}
    config = PrepareCoco(images_url=server.url, annotations_url=server.url, folder=str(tmp_path / "none"))
    work = make_job(tmp_path, prepare=config)
    first = job.run(work)
    assert [url.rsplit("/", 1)[1] for url in first.shards] == ["val2017-00000.tar"]
    server.files = {}
    assert job.run(work) == first
    assert len(server.asked) == 2


@pytest.mark.parametrize("name", ["demo", "coco", "flickr8k"])
def test_the_dataset_configs_load_and_name_encoders_there_are(name):
    config = load(DatasetConfig, find("datasets", name))
    assert config.name == name
    for side in (config.encoder, config.scorer):
        if side and not side.startswith("checkpoints/"):
            load(EncoderConfig, find("encoders", side))


@pytest.mark.parametrize("name", ["clip-vit-b32", "siglip-base", "xclip-base-patch32", "blip-itm-coco", "demo-loopitr"])
def test_the_encoder_configs_load(name):
    assert load(EncoderConfig, find("encoders", name)).path
