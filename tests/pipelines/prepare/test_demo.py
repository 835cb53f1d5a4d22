"""The demo's shards hold real JPEGs and MP4s with their captions, and its log asks for each of them."""

import io
import json
import tarfile

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.prepare import gallery, scenes
from pipelines.prepare.demo import prepare_demo, query_log
from schemas.configs import PrepareDemo
from schemas.layout import Layout
from schemas.query_logs import read_rows

CONFIG = PrepareDemo(images=24, videos=8, images_per_shard=16, seed=7)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    manifest = prepare_demo(CONFIG, Layout(str(root), "demo"), progress=lambda n: None)
    folder = next((root / "shards" / "demo").iterdir())
    members = {}
    for entry in manifest.shards:
        with tarfile.open(folder / entry.name) as tar:
            members |= {name: tar.extractfile(name).read() for name in tar.getnames()}
    return manifest, folder, members


def test_every_item_has_a_visual_member_and_its_caption(demo):
    manifest, _, members = demo
    assert [(entry.name, entry.rows) for entry in manifest.shards] == [
        ("scenes-00000.tar", 16), ("scenes-00001.tar", 8), ("clips-00000.tar", 4), ("clips-00001.tar", 4)
    ]  # fmt: skip
    assert manifest.counts == {"images": 24, "videos": 8, "captions": 32}
    said = [json.loads(data)["captions"] for name, data in members.items() if name.endswith(".json")]
    assert {text for (text,) in said} == gallery.gallery_captions(images=24, videos=8, seed=7)
    assert len(said) == 32
    assert {name.rpartition(".")[2] for name in members} == {"jpg", "mp4", "json"}


def test_the_jpeg_shows_the_scene_of_its_caption(demo):
    _, _, members = demo
    for i, scene in enumerate(gallery.gallery_scenes(images=24, seed=7)):
        picture = np.asarray(Image.open(io.BytesIO(members[f"scene-{i:06d}.jpg"]))).astype(int)
        assert picture.shape == (128, 128, 3)
        assert json.loads(members[f"scene-{i:06d}.json"])["captions"] == [scenes.caption(scene)]
        for thing in scene.things:
            found = picture[thing.row * 32 + 15 : thing.row * 32 + 17, thing.column * 32 + 15 : thing.column * 32 + 17]
            distance = {name: np.abs(found.mean(axis=(0, 1)) - rgb).sum() for name, rgb in scenes.COLOURS.items()}
            assert min(distance, key=distance.get) == thing.colour


def test_the_clips_are_films_of_a_second_and_a_half(demo):
    _, _, members = demo
    for i in range(8):
        with av.open(io.BytesIO(members[f"clip-{i:06d}.mp4"])) as container:
            assert sum(1 for _ in container.decode(video=0)) == 12


def test_the_log_asks_for_every_item_once_with_zipf_counts(demo):
    manifest, folder, _ = demo
    rows = list(read_rows(str(folder / "queries.tsv")))
    assert {row["text"] for row in rows} == gallery.gallery_captions(images=24, videos=8, seed=7)
    assert [int(row["count"]) for row in rows[:5]] == [32, 16, 11, 8, 7]
    assert int(rows[-1]["count"]) == 1
    assert len({row["query_id"] for row in rows}) == len(rows) == manifest.queries.rows == 32


def test_popularity_is_not_the_order_of_the_gallery():
    lines = query_log([f"c{i:03d}" for i in range(100)], seed=1).decode().splitlines()[1:]
    texts = [line.split("\t")[1] for line in lines]
    assert texts != sorted(texts)
    assert sorted(texts) == [f"c{i:03d}" for i in range(100)]


def test_the_same_config_gives_the_same_bytes(demo, tmp_path):
    manifest, _, _ = demo
    again = prepare_demo(CONFIG, Layout(str(tmp_path), "demo"), progress=lambda n: None)
    assert again == manifest
