"""COCO's archives become shards with the captions of each image; what is missing is said."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipelines.prepare import coco
from schemas.configs import PrepareCoco
from schemas.errors import InputError
from schemas.layout import Layout
from schemas.query_logs import read_rows

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco-mini"


def zipped(members):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target.getvalue()


def prepare(root, **options):
    config = PrepareCoco(**{"images_per_shard": 4, "folder": str(root / "data"), **options})
    layout = Layout(str(root / "build"), "coco")
    archives = coco.find_archives(config, layout, progress=lambda *_: None)
    return coco.write_coco(config, coco.plan_coco(config, archives), layout, progress=lambda n: None)


def members(root):
    found = {}
    for path in sorted((root / "build" / "shards" / "coco").glob("*/*.tar")):
        with tarfile.open(path) as tar:
            found |= {f"{path.name}:{name}": tar.extractfile(name).read() for name in tar.getnames()}
    return found


@pytest.fixture
def by_hand(place, small_coco, tmp_path):
    place("data/val2017.zip", small_coco.images)
    place("data/annotations_trainval2017.zip", small_coco.annotations)
    return tmp_path


def test_archives_placed_by_hand_become_shards_in_the_order_of_ids(by_hand, small_coco):
    manifest = prepare(by_hand)
    assert [(entry.name, entry.rows) for entry in manifest.shards] == [
        ("val2017-00000.tar", 4), ("val2017-00001.tar", 4), ("val2017-00002.tar", 2)
    ]  # fmt: skip
    found = members(by_hand)
    assert list(found)[:3] == [
        "val2017-00000.tar:000000000010.jpg",
        "val2017-00000.tar:000000000010.json",
        "val2017-00000.tar:000000000020.jpg",
    ]
    said = json.loads(found["val2017-00000.tar:000000000020.json"])
    assert said == {"captions": [f"caption {k} of image 20" for k in range(5)], "image_id": 20}


def test_missing_and_extra_images_are_counted_and_named(by_hand):
    manifest = prepare(by_hand)
    assert manifest.counts == {"images": 10, "captions": 50, "missing": 1, "extra": 2}
    assert manifest.missing == ("000000000999",)


def test_the_log_holds_every_caption_of_every_packed_image_under_its_own_id(by_hand):
    prepare(by_hand)
    log = next((by_hand / "build").glob("shards/coco/*/queries.tsv"))
    rows = list(read_rows(str(log)))
    assert len(rows) == 50
    assert rows[0] == {"query_id": "100", "text": "caption 0 of image 10"}
    assert len({row["query_id"] for row in rows}) == 50


def test_archives_come_from_the_server_in_spite_of_cut_connections(server, small_coco, by_hand, tmp_path):
    server.files = {"/z/val2017.zip": small_coco.images, "/a/annotations_trainval2017.zip": small_coco.annotations}
    server.cuts = [None, len(small_coco.images) // 2]
    fetched = tmp_path / "fetched"
    prepare(fetched, images_url=f"{server.url}/z", annotations_url=f"{server.url}/a/")
    prepare(by_hand)
    assert members(fetched) == members(by_hand)
    assert (fetched / "build" / "cache" / "downloads" / "val2017.zip").is_file()


def test_a_folder_elsewhere_names_the_same_shards(by_hand):
    first = coco.config_identity(PrepareCoco(folder="a"))
    assert first == coco.config_identity(PrepareCoco(folder="b"))
    assert first != coco.config_identity(PrepareCoco(folder="a", images_per_shard=7))


def test_no_file_and_no_network_names_both_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "fetch", lambda *a, **k: (_ for _ in ()).throw(InputError("no route to host")))
    with pytest.raises(InputError, match=r"no route to host.*put the file at .*data/annotations.*images_url"):
        prepare(tmp_path)


def test_names_in_an_archive_never_become_paths(by_hand, place, small_coco):
    evil = {"/etc/000000000010.jpg": b"a", "../../../000000000020.jpg": b"b", "val2017/x/../000000000030.JPG": b"c"}
    place("data/val2017.zip", zipped({**evil, "000000000040.jpg.exe": b"d", "val2017/": b""}))
    prepare(by_hand)
    assert [name.split(":")[1] for name in members(by_hand) if name.endswith("jpg")] == [
        "000000000010.jpg", "000000000020.jpg", "000000000030.jpg"
    ]  # fmt: skip


@pytest.mark.parametrize("keep", [0, 100, -30])
def test_a_cut_archive_says_to_fetch_it_again(by_hand, place, small_coco, keep):
    place("data/val2017.zip", small_coco.images[:keep])
    with pytest.raises(InputError, match="val2017.zip: not a complete zip.*remove it"):
        prepare(by_hand)


def test_a_damaged_image_names_its_archive_and_member(by_hand, place, small_coco):
    broken = bytearray(small_coco.images)
    at = small_coco.images.rindex(b"\xff\xd8\xff")
    broken[at + 30] ^= 0xFF
    place("data/val2017.zip", bytes(broken))
    with pytest.raises(InputError, match=r"val2017.zip: val2017/000000000010.jpg: cannot be unpacked"):
        prepare(by_hand)


def test_another_archive_is_told_apart_from_cocos(by_hand, place):
    place("data/val2017.zip", zipped({"readme.txt": b"hello"}))
    with pytest.raises(InputError, match="none of its 11 images"):
        prepare(by_hand)
    place("data/annotations_trainval2017.zip", zipped({"annotations/other.json": b"{}"}))
    with pytest.raises(InputError, match=r"expected a member annotations/captions_val2017.json"):
        prepare(by_hand)


@pytest.mark.parametrize("value", [[], {}, {"images": [1], "annotations": []}, {"images": [{"id": "x"}]}, None])
def test_captions_of_another_form_are_refused(value):
    with pytest.raises(InputError, match="here: expected COCO's captions format"):
        coco.official_captions(value, source="here")


def karpathy():
    splits = {10: "train", 20: "restval", 30: "val", 40: "test", 110: "test"}
    return {
        "dataset": "coco",
        "images": [
            {
                "cocoid": n,
                "split": split,
                "sentences": [{"sentid": n * 10 + k, "raw": f"caption {k}\n"} for k in (1, 0)],
            }
            for n, split in splits.items()
        ],
    }


@pytest.mark.parametrize(
    ("split", "ids"), [("karpathy-train", [10, 20]), ("karpathy-val", [30]), ("karpathy-test", [40, 110])]
)
def test_a_karpathy_split_goes_across_both_archives(place, tmp_path, split, ids):
    pictures = {f"COCO_val2014_{n:012d}.jpg": bytes([n]) for n in (10, 20, 30)}
    place("data/train2017.zip", zipped(pictures))
    place("data/val2017.zip", zipped({f"val2017/{n:012d}.jpg": bytes([n]) for n in (40, 110, 120)}))
    place("data/dataset_coco.json", json.dumps(karpathy()).encode())
    prepare(tmp_path, split=split)
    found = members(tmp_path)
    assert [data[0] for name, data in found.items() if name.endswith("jpg")] == ids
    assert [json.loads(data)["image_id"] for name, data in found.items() if name.endswith("json")] == ids


def test_a_karpathy_split_without_its_file_says_where_to_put_it(tmp_path):
    with pytest.raises(InputError, match="dataset_coco.json: not found.*karpathy_file"):
        prepare(tmp_path, split="karpathy-test")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real COCO images of ../shared/data are not here")
def test_real_coco_archives_over_http_give_every_image_and_caption(server, tmp_path):
    server.files = {f"/{path.name}": path.read_bytes() for path in REAL.glob("*.zip")}
    server.cuts = [None, 10_000_000, 5_000_000]
    manifest = prepare(tmp_path, images_url=server.url, annotations_url=server.url, images_per_shard=100)
    assert manifest.counts == {"images": 159, "captions": 795, "missing": 0, "extra": 0}
    assert [entry.rows for entry in manifest.shards] == [100, 59]
    again = prepare(tmp_path / "by-hand", folder=str(REAL), images_per_shard=100)
    assert [entry.sha256 for entry in again.shards] == [entry.sha256 for entry in manifest.shards]
    assert again.queries == manifest.queries
    picture = members(tmp_path)["val2017-00000.tar:000000000139.jpg"]
    from PIL import Image

    assert Image.open(io.BytesIO(picture)).size == (640, 426)
