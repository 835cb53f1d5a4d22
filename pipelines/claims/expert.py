"""Flickr8k's expert grades: how well a caption describes a photo it may not belong to, from 1 to 4, by three people.

A line is `<image>.jpg TAB <image>.jpg#<n> TAB grade TAB grade TAB grade`; n counts an image's captions from 0.
Source: Hodosh, Young and Hockenmaier, Framing Image Description as a Ranking Task, JAIR 47, 2013, section 4.1.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from schemas.errors import InputError

FILE = "ExpertAnnotations.txt"

_LINE = re.compile(r"([^\t]+)\t([^\t#]+)#(\d+)\t([1-4])\t([1-4])\t([1-4])")


class Graded(NamedTuple):
    """Graded pairs.

    Attributes:
      items: place of the photo, int64 (P,).
      captions: the texts.
      grades: mean of the three, float64 (P,).
      left_out: lines whose photo or caption is not among those given.
    """

    items: np.ndarray
    captions: tuple[str, ...]
    grades: np.ndarray
    left_out: int


def read_grades(path: Path, keys: Sequence[str], captions: Sequence[Sequence[str]]) -> Graded:
    """The grades of photos and captions.

    Args:
      keys: of the photos: the names of their files, with or without what follows the last dot.
      captions: of each photo, in the order that `#<n>` counts.

    Raises:
      InputError: the file is not there, a line is not as above, or no line is about these photos.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected Flickr8k's expert grades, found no file; put it beside the shards")
    place = {_stem(key): number for number, key in enumerate(keys)}
    items, texts, grades, left_out = [], [], [], 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        photo, caption, given = _read(line, f"{path.name}, line {number}")
        text = _caption(caption, place, captions)
        if photo not in place or text is None:
            left_out += 1
            continue
        items.append(place[photo])
        texts.append(text)
        grades.append(given)
    if not items:
        raise InputError(f"{path}: expected grades of the {len(keys)} photos given, found none among {left_out} lines")
    return Graded(np.array(items, np.int64), tuple(texts), np.array(grades, np.float64), left_out)


def spearman(scores: np.ndarray, grades: np.ndarray) -> float:
    """Rank correlation of scores and grades, equal ones sharing their mean rank; (P,) both."""
    return float(spearmanr(scores, grades).statistic)


def _read(line: str, where: str) -> tuple[str, tuple[str, int], float]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise InputError(f"{where}: expected image, image#number and three grades of 1 to 4, got {line!r}")
    photo, owner, number, *grades = found.groups()
    return _stem(photo), (_stem(owner), int(number)), float(np.mean([int(grade) for grade in grades]))


def _caption(caption: tuple[str, int], place: Mapping[str, int], captions: Sequence[Sequence[str]]) -> str | None:
    owner, number = caption
    if owner not in place or not 0 <= number < len(captions[place[owner]]):
        return None
    return captions[place[owner]][number]


def _stem(name: str) -> str:
    """The name of a file without folder and ending."""
    return name.rsplit("/", 1)[-1].removesuffix(".jpg").removesuffix(".jpeg")
