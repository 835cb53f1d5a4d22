"""Trains what claims need, once a seed, and keeps what its models say of the pictures of a bench.

Each training is a checkpoint folder, and all pairs of a gallery are a file, found again when the claims are run again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.claims import kept, records
from pipelines.claims.bench import Bench, Size
from pipelines.claims.gallery import Gallery
from pipelines.claims.ranks import hits, pair_recalls, ranks, recall
from pipelines.claims.scores import Checkpoint, Scores, open_checkpoint, score_all
from pipelines.claims.seen import Seen


@dataclass
class Trained:
    """Trains what is asked for, and measures it; what was trained before is taken from its folder.

    Attributes:
      bench: pictures and trainings.
      folder: of the checkpoints.
      seeds: of the trainings, and of the galleries they are measured on.
      records: folder for the record of each training; None: none is kept.
      tell: told what is being done.
    """

    bench: Bench
    folder: Path
    seeds: Sequence[int]
    records: Path | None = None
    tell: Callable[[str], None] = field(default=lambda _: None)
    _seen: Seen = field(default_factory=Seen)
    _there: dict[tuple[str, int], Path] = field(default_factory=dict)
    _scores: dict[tuple[str, int, Size, bool], Scores] = field(default_factory=dict)

    def checkpoint(self, name: str, seed: int) -> Checkpoint:
        """A training's result, or that of a `builtin:<name>`, which is of no seed.

        Raises:
          ModelError, ConfigError: it cannot be loaded.
        """
        return open_checkpoint(str(self.train(name, seed)) if name in self.bench.trainings else name, self._seen)

    def train(self, name: str, seed: int) -> Path:
        """Trains unless it is there; returns the folder. Whether its data are still the same is looked at once."""
        if (name, seed) in self._there:
            return self._there[name, seed]
        from encoders.training.loop import Listener
        from pipelines import training_job

        one, out = self.bench.trainings[name], self.folder / f"{name}-{seed}"
        begin = one.initial or "null"
        if begin in self.bench.trainings:
            begin = str(self.train(begin, seed))
        if not (out / "training.json").is_file():
            self.tell(f"training {name}, seed {seed}: {one.steps:,} steps of {one.config}")
        train, validation = self.bench.shards
        training_job.run(
            one.config,
            out=str(out),
            shards=train,
            validation_shards=validation,
            settings=self.settings(name, seed, begin),
            device="cpu",
            listener=Listener(
                validated=lambda step, recall: self.tell(f"{name}, seed {seed}, step {step:,}: {recall}")
            ),
        )
        self._there[name, seed] = out
        return out

    def settings(self, name: str, seed: int, initial: str) -> list[str]:
        """All that is laid over the config of a training."""
        one, bench = self.bench.trainings[name], self.bench
        every = max(1, one.steps // bench.validations)
        looked = [f"validation.every={every}", f"validation.max_queries={bench.queries}"]
        laid = [*bench.common, *looked, *one.settings, *bench.settings]
        return [*laid, f"steps={one.steps}", f"seed={seed}", f"initial={initial}"]

    def scores(self, name: str, seed: int, *, slow: bool, size: Size | None = None) -> Scores:
        """What a model says of a gallery of a seed; without `slow`, of the vectors alone.

        Args:
          size: of the gallery; None: that of models that are compared. Where the fast side alone is asked for and the
            bench has a gallery for that, it is that one.
        """
        if not slow and self.bench.asked is not self.bench.draw:
            size = self.bench.measured  # one gallery, whatever is compared on it
        key = (name, seed, size or self.bench.trained, slow)
        if key not in self._scores:
            model = self.checkpoint(name, seed)
            self._scores[key] = found = self._part_of_larger(key) or self._scored(model, key)
            if self.records is not None and name in self.bench.trainings:
                records.keep(self.records / f"{name}-{seed}.json", model.record, reached(found, slow=slow))
        return self._scores[key]

    def _part_of_larger(self, key: tuple[str, int, Size, bool]) -> Scores | None:
        """The same of a gallery that was scored before and begins with this one; None where there is none."""
        (name, seed, size, slow), whole = key, self.bench.measured
        known = self._scores.get((name, seed, whole, slow))
        if not (self.bench.nested and slow) or known is None or size.texts != whole.texts or size.items > whole.items:
            return None
        return known.among(size.items)

    def _scored(self, model: Checkpoint, key: tuple[str, int, Size, bool]) -> Scores:
        """What a model says of a gallery; all pairs are kept in `folder` too, and the seconds they took."""
        name, seed, size, slow = key
        shown = (self.bench.draw if slow else self.bench.asked)(seed, size, model.pixels)
        training = self.bench.trainings.get(name)
        if training is not None and training.slow_of is not None and slow:
            vectors = self._score_all(model, shown, name, seed, slow=False)
            return kept.with_slow(vectors, self.scores(training.slow_of, seed, slow=True, size=size))
        if not slow:
            return self._score_all(model, shown, name, seed, slow=False)
        path = self.folder / "scores" / f"{name.replace(':', '-')}-{seed}-{size.items}x{size.texts}.npz"
        of = kept.mark(model.encoder.fingerprint, shown)
        found = kept.read(path, of, shown)
        if found is None:
            found = self._score_all(model, shown, name, seed, slow=True)
            kept.write(path, of, found)
        return found

    def _score_all(self, model: Checkpoint, shown: Gallery, name: str, seed: int, *, slow: bool) -> Scores:
        sides = f"{'all pairs' if slow else 'vectors'} of {name}"
        self.tell(f"seed {seed}: {len(shown.captions):,} texts x {len(shown.pixels):,} items, {sides}")
        return score_all(model, shown, slow=slow)

    def fast_hits(self, name: str) -> list[np.ndarray]:
        """At rank 1, of the fast side, by seed."""
        found = (self.scores(name, seed, slow=False) for seed in self.seeds)
        return [hits(ranks(one.fast, one.targets)) for one in found]

    def slow_hits(self, name: str) -> list[np.ndarray]:
        """At rank 1 of all pairs, of the slow side, by seed."""
        found = (self.scores(name, seed, slow=True) for seed in self.seeds)
        return [hits(ranks(one.slow, one.targets)) for one in found]

    def subjects(self, name: str, *, slow: bool) -> list[np.ndarray] | None:
        """What the texts of `fast_hits` or `slow_hits` are of, by seed; None: no two of the same."""
        return all_known([self.scores(name, seed, slow=slow).subjects for seed in self.seeds])

    def pair_recalls(self, name: str) -> list[np.ndarray]:
        """What each item and a text of it add to the fast side's mR, by seed."""
        return [pair_recalls(self.scores(name, seed, slow=False).paired().fast) for seed in self.seeds]

    def pair_subjects(self, name: str) -> list[np.ndarray] | None:
        """What the pairs of `pair_recalls` are of, by seed; None: no two of the same."""
        return all_known([self.scores(name, seed, slow=False).paired().subjects for seed in self.seeds])


def all_known(found: Sequence[np.ndarray | None]) -> list[np.ndarray] | None:
    """The same, or None where one of them is."""
    known = [one for one in found if one is not None]
    return known if len(known) == len(found) else None


def reached(found: Scores, *, slow: bool) -> dict[str, float]:
    """R@1/5/10 text to image, in percent, by the side that was asked, and of how many texts and items."""
    side, scores = ("slow", found.slow) if slow else ("fast", found.fast)
    rank = ranks(scores, found.targets)
    recalls = {f"{side}_r{k}": round(recall(rank, k), 3) for k in (1, 5, 10)}
    return recalls | {f"{side}_texts": len(rank), f"{side}_items": found.count}
