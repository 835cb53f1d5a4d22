"""One image or clip as it comes out of a shard: bytes, where they are, and what people wrote of it."""

from dataclasses import dataclass
from typing import Literal

Modality = Literal["image", "video"]

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif"})
VIDEO_SUFFIXES = frozenset({"mp4", "webm", "mkv", "avi", "mov"})
VISUAL_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Sample:
    """A visual member of a shard with its captions.

    Attributes:
      key: member path up to the first dot of its basename (the WebDataset convention).
      shard: file name of the shard, without folders.
      position: number of the sample within the shard, from 0; rejects have a position too.
      suffix: extension of the visual member, lower case, without dot; a hint, content decides.
      data: the member's bytes.
      offset: byte offset of `data` in the (decompressed) tar; a range read of `size` bytes gives it.
      size: length of `data` in bytes.
      captions: in file order, as written.
      metadata: the `.json` member as written, or "".
    """

    key: str
    shard: str
    position: int
    suffix: str
    data: bytes
    offset: int
    size: int
    captions: tuple[str, ...] = ()
    metadata: str = ""
