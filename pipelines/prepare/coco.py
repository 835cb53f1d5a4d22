"""COCO from its official archives: images and captions become shards, captions become the query log.

Source: https://cocodataset.org/#download (train2017.zip, val2017.zip, annotations_trainval2017.zip); the
Karpathy splits are lists of the same images by id (dataset_coco.json of https://cs.stanford.edu/people/karpathy/deepimagesent/).
"""

import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.prepare.downloads import fetch
from pipelines.prepare.shard_writer import Packed, Progress, ShardPlan, prepared_folder, write_folder
from schemas.configs import PrepareCoco
from schemas.digests import digest_file
from schemas.errors import InputError
from schemas.layout import Layout
from schemas.manifests import PreparedManifest
from schemas.stores import is_local, open_store

logger = logging.getLogger(__name__)

ANNOTATIONS = "annotations_trainval2017.zip"

MAX_IMAGE_BYTES = 64 << 20
"""The largest image of COCO has 0.9 MB; a member that says it unpacks to more than this is refused unread."""

NAMED_MISSING = 100
"""Missing images kept by name in the manifest; all are counted."""

# 2017 archives hold val2017/000000000139.jpg, those of 2014 val2014/COCO_val2014_000000000139.jpg.
_IMAGE = re.compile(r"(?:.*/)?(?:COCO_[a-z]+\d+_)?(\d{1,12})\.jpe?g", re.IGNORECASE)

DownloadProgress = Callable[[str, int, int | None], None]
"""Called with (archive, bytes here, bytes of the whole or None)."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption with the id its publisher gave it."""

    caption_id: int
    text: str


@dataclass(frozen=True)
class Entry:
    """An image to be packed: where its bytes are and what was written of it."""

    image_id: int
    archive: Path
    member: str
    captions: tuple[Caption, ...]


@dataclass(frozen=True)
class Archives:
    """Where everything is: the captions (a zip, or Karpathy's JSON) and the zips of images."""

    captions: Path
    images: tuple[Path, ...]


@dataclass(frozen=True)
class CocoPlan:
    """What will be packed, which listed images are in no archive, and how many are in one without being listed."""

    entries: tuple[Entry, ...]
    missing: tuple[int, ...]
    extra: int


def config_identity(config: PrepareCoco) -> dict[str, Any]:
    """What decides about the bytes: not where archives were found, and the split file by its content.

    Raises:
      InputError: a Karpathy split without its file.
    """
    value = config.model_dump(mode="json", exclude={"folder"})
    value["karpathy_file"] = None
    if config.split.startswith("karpathy-"):
        path = _karpathy_path(config)
        value["karpathy_file"] = digest_file(str(path))
    return value


def find_archives(config: PrepareCoco, layout: Layout, *, progress: DownloadProgress) -> Archives:
    """The archives a split needs: those placed by hand, the others downloaded now or earlier.

    Args:
      progress: called as archives arrive; never for one that is there.

    Raises:
      InputError: one can neither be found nor downloaded; names both ways out.
    """
    karpathy = config.split.startswith("karpathy-")
    images = ["train2017.zip", "val2017.zip"] if karpathy else [f"{config.split}.zip"]
    captions = (
        _karpathy_path(config)
        if karpathy
        else _archive(ANNOTATIONS, config.annotations_url, config, layout, progress=progress)
    )
    found = [_archive(name, config.images_url, config, layout, progress=progress) for name in images]
    return Archives(captions, tuple(found))


def plan_coco(config: PrepareCoco, archives: Archives) -> CocoPlan:
    """Joins captions and images by image id.

    The gallery is what the split lists, in the order of image ids; images in the archives that it does not list are
    counted as `extra`, listed ones that no archive holds are missing.

    Raises:
      InputError: an archive is damaged or not COCO's, or none of the split's images is in it.
    """
    captions = _split_captions(config, archives.captions)
    members = _members(archives.images)
    entries = [Entry(number, *members[number], said) for number, said in captions.items() if number in members]
    if not entries:
        names = ", ".join(str(path) for path in archives.images)
        raise InputError(f"{config.split}: none of its {len(captions):,} images is in {names}; is this COCO's archive?")
    missing = tuple(number for number in captions if number not in members)
    if missing:
        logger.warning("%s: %d of %d images are in no archive", config.split, len(missing), len(captions))
    return CocoPlan(tuple(entries), missing, extra=len(members.keys() - captions.keys()))


def write_coco(config: PrepareCoco, plan: CocoPlan, layout: Layout, *, progress: Progress) -> PreparedManifest:
    """Writes the shards and the query log that are not there yet.

    Args:
      progress: called as images are packed.

    Raises:
      InputError: an image cannot be unpacked.
    """
    size = config.images_per_shard
    shards = []
    for number, start in enumerate(range(0, len(plan.entries), size)):
        part = plan.entries[start : start + size]
        shards.append(ShardPlan(f"{config.split}-{number:05d}.tar", len(part), partial(_samples, part)))
    said = [caption for entry in plan.entries for caption in entry.captions]
    counts = {"images": len(plan.entries), "captions": len(said), "missing": len(plan.missing), "extra": plan.extra}
    identity = config_identity(config)
    return write_folder(
        prepared_folder(layout, identity),
        shards,
        dataset=layout.dataset,
        config=identity,
        queries=query_log(said),
        query_rows=len(said),
        counts=counts,
        missing=tuple(f"{number:012d}" for number in plan.missing[:NAMED_MISSING]),
        progress=progress,
    )


def query_log(captions: Sequence[Caption]) -> bytes:
    """A `.tsv` of the captions as queries, by image: query_id (the caption's own id), text."""
    lines = [f"{caption.caption_id}\t{caption.text}" for caption in captions]
    return ("\n".join(["query_id\ttext", *lines]) + "\n").encode("utf-8", "replace")


def _archive(name: str, base_url: str, config: PrepareCoco, layout: Layout, *, progress: DownloadProgress) -> Path:
    by_hand = Path(config.folder) / name
    if by_hand.is_file():
        return by_hand
    url = f"{base_url.rstrip('/')}/{name}"
    fs, folder = open_store(layout.downloads())
    target = (Path(folder) if is_local(fs) else Path(config.folder)) / name
    try:
        return fetch(url, target, progress=partial(progress, name))
    except InputError as error:
        raise InputError(
            f"COCO needs {name}: it is not at {by_hand}, and the download failed: {error}. Either put the file at "
            f"{by_hand} (prepare.folder names the folder), or run again where the URL can be reached "
            "(prepare.images_url and prepare.annotations_url name mirrors)"
        ) from error


def _split_captions(config: PrepareCoco, path: Path) -> dict[int, tuple[Caption, ...]]:
    """Image id -> its captions in the order of their ids, for every image of the split, by image id."""
    if config.split.startswith("karpathy-"):
        return karpathy_captions(_json(path.read_bytes(), str(path)), config.split, source=str(path))
    member = f"annotations/captions_{config.split}.json"
    with _open(path) as archive:
        return official_captions(_json(_read(archive, member, path), f"{path}: {member}"), source=f"{path}: {member}")


def official_captions(value: Any, *, source: str) -> dict[int, tuple[Caption, ...]]:
    """Captions of a `captions_*.json`; every image of its list has an entry, if an empty one.

    Raises:
      InputError: not of this form.
    """
    found: dict[int, list[Caption]] = {}
    try:
        for image in value["images"]:
            found[int(image["id"])] = []
        for row in value["annotations"]:
            found.setdefault(int(row["image_id"]), []).append(Caption(int(row["id"]), _one_line(row["caption"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{source}: expected COCO's captions format (images, annotations): {error!r}") from error
    return _ordered(found)


def karpathy_captions(value: Any, split: str, *, source: str) -> dict[int, tuple[Caption, ...]]:
    """Captions of one split of `dataset_coco.json`; "karpathy-train" includes its "restval", as is usual.

    Raises:
      InputError: not of this form, or no image is in the split.
    """
    wanted = {"karpathy-train": {"train", "restval"}, "karpathy-val": {"val"}, "karpathy-test": {"test"}}[split]
    found: dict[int, list[Caption]] = {}
    try:
        for image in value["images"]:
            if image["split"] in wanted:
                rows = [Caption(int(row["sentid"]), _one_line(row["raw"])) for row in image["sentences"]]
                found[int(image["cocoid"])] = rows
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{source}: expected Karpathy's dataset_coco.json (images with cocoid, split, sentences): {error!r}"
        ) from error
    if not found:
        raise InputError(f"{source}: no image of it is in {split}")
    return _ordered(found)


def _ordered(found: Mapping[int, list[Caption]]) -> dict[int, tuple[Caption, ...]]:
    return {
        image_id: tuple(sorted((row for row in found[image_id] if row.text), key=lambda row: row.caption_id))
        for image_id in sorted(found)
    }


def _one_line(text: str) -> str:
    """A caption on one line: some of COCO's end in a line break, which a .tsv cannot hold."""
    return " ".join(text.split())


def _karpathy_path(config: PrepareCoco) -> Path:
    path = Path(config.karpathy_file) if config.karpathy_file else Path(config.folder) / "dataset_coco.json"
    if not path.is_file():
        raise InputError(
            f"{path}: not found, and the split {config.split} is defined by it; put Karpathy's dataset_coco.json there "
            "or name it with prepare.karpathy_file"
        )
    return path


def _members(archives: Sequence[Path]) -> dict[int, tuple[Path, str]]:
    """Image id -> where its bytes are.

    A member's name only ever gives a number; an id that two members claim belongs to the first of them by name.
    """
    members: dict[int, tuple[Path, str]] = {}
    for path in archives:
        with _open(path) as archive:
            for name in sorted(archive.namelist()):
                match = _IMAGE.fullmatch(name)
                if match:
                    members.setdefault(int(match[1]), (path, name))
    return members


def _samples(entries: Sequence[Entry]) -> Iterator[Packed]:
    with ExitStack() as stack:
        opened: dict[Path, zipfile.ZipFile] = {}
        for entry in entries:
            if entry.archive not in opened:
                opened[entry.archive] = stack.enter_context(_open(entry.archive))
            data = _read(opened[entry.archive], entry.member, entry.archive, limit=MAX_IMAGE_BYTES)
            said = {"captions": [row.text for row in entry.captions], "image_id": entry.image_id}
            text = json.dumps(said, sort_keys=True, ensure_ascii=True).encode()
            yield Packed(f"{entry.image_id:012d}", (("jpg", data), ("json", text)))


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path}: not a complete zip archive ({error}); remove it and run again to fetch it"
        ) from error


def _read(archive: zipfile.ZipFile, member: str, path: Path, *, limit: int | None = None) -> bytes:
    try:
        size = archive.getinfo(member).file_size
        if limit is not None and size > limit:
            raise InputError(f"{path}: {member}: unpacks to {size:,} bytes, at most {limit:,} are expected")
        return archive.read(member)
    except KeyError:
        raise InputError(f"{path}: expected a member {member}, found none; is this COCO's archive?") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        # zipfile's own set: bad checksum, unknown compression, encrypted, cut off.
        raise InputError(
            f"{path}: {member}: cannot be unpacked ({error}); remove the archive and fetch it again"
        ) from error


def _json(data: bytes, source: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise InputError(f"{source}: not JSON ({error})") from error
