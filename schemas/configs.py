"""Dataset and encoder configs: strict YAML into frozen models; an unknown key is named with the allowed ones."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Config(BaseModel):
    """Base of all configs: frozen; unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PrepareDemo(Config):
    """Generates the demo: scenes in families that differ only in binding, and short clips of moving objects."""

    kind: Literal["demo"] = "demo"
    images: Annotated[int, Field(ge=4)] = 2000  # a multiple of the family size
    videos: Annotated[int, Field(ge=0)] = 240
    images_per_shard: Positive = 500
    seed: int = 20_000


class PrepareCoco(Config):
    """Fetches COCO's official archives and packs them into shards."""

    kind: Literal["coco"] = "coco"
    split: Literal["val2017", "train2017", "karpathy-val", "karpathy-test", "karpathy-train"] = "val2017"
    images_url: str = "http://images.cocodataset.org/zips"
    annotations_url: str = "http://images.cocodataset.org/annotations"
    folder: str = "data/coco"  # archives placed by hand are found here
    karpathy_file: str | None = None  # dataset_coco.json
    images_per_shard: Positive = 1000


class Captions(Config):
    """Where the captions of a sample are."""

    members: tuple[str, ...] = ("txt", "json")  # suffixes, in this order; "cls" on request
    fields: tuple[str, ...] = ("captions", "caption", "text")  # of a JSON member; strings or lists of strings


class Queries(Config):
    """The query log and what is known to be relevant."""

    log: str | None = None  # URL of a .tsv, .jsonl or .parquet; null: the captions of the items
    ground_truth: Literal["captions", "clicked", "none"] = "captions"
    fit_fraction: Fraction = 0.2  # share of queries for tuning and fitting, never measured on
    max_queries: Positive | None = None  # the most frequent ones


class Embed(Config):
    """How shards become vectors. All of it changes the output, so all of it is part of its name."""

    batch_size: Positive = 32
    frames: Positive = 4  # sampled from a video
    jpeg_scaling: Literal["exact", "fast"] = (
        "fast"  # "fast": libjpeg decodes at 1/2, 1/4 or 1/8 where that still covers the target
    )
    max_image_bytes: Positive = 64 << 20
    max_video_bytes: Positive = 512 << 20
    max_pixels: Positive = 100_000_000
    max_decode_s: Annotated[float, Field(gt=0)] = 60.0  # per video
    max_reject_fraction: Fraction = 0.1  # of the dataset; more stops the job


class Append(Config):
    """How long an index takes new items in beside the old ones before it is merged, or trained, anew."""

    enabled: bool = True
    max_segments: Positive = 8  # more are merged
    max_unmerged: Fraction = 0.1  # of the items, new and removed ones together; more are merged
    max_changed: Fraction = 0.3  # of the items it was trained for, added and removed; more and it is trained anew
    max_error_ratio: Annotated[float, Field(ge=1)] = 1.25  # quantization error of new items to that of the old ones
    max_imbalance_ratio: Annotated[float, Field(ge=1)] = 1.5  # of the lists' lengths, to when it was trained


class Index(Config):
    """What the index must promise."""

    key: str = "auto"  # a FAISS factory string, or "auto": autofaiss proposes
    max_memory: str = "4GB"  # of the serving process
    build_memory: str = "16GB"  # of the machine that builds: bounds the training sample; what needs more is refused
    recall_target: Annotated[float, Field(gt=0, le=1)] = 0.95  # recall@k against exact search, on text queries
    recall_k: Positive = 10
    train_rows: Positive | None = None  # null: autofaiss's heuristic, within build_memory
    seed: int = 0
    levels: Literal["auto", "finest", "coarse_to_fine"] = "auto"  # auto: coarse to fine if the encoder has levels
    shortlist: tuple[Positive, ...] | None = None  # K_m of coarse to fine; null: a tenth, a fiftieth, ... of the items
    latency_budget_ms: Annotated[float, Field(gt=0)] | None = None  # a query alone, on the machine that builds
    shards: Positive = 1  # files the index is left in; a search merges what it finds in them
    append: Append = Append()
    refine: bool = False  # behind compressed vectors: whole ones, mapped from a file, order the best of them

    @model_validator(mode="after")
    def _shortlist_narrows(self) -> Self:
        if self.shortlist is not None and list(self.shortlist) != sorted(self.shortlist, reverse=True):
            raise ValueError(f"shortlist: expected numbers that fall, coarse to fine, got {list(self.shortlist)}")
        if self.shortlist is not None and self.levels == "finest":
            raise ValueError("shortlist: there is none where levels is 'finest'")
        if self.refine and self.levels == "coarse_to_fine":
            raise ValueError("refine: coarse to fine orders by whole vectors already; leave one of them out")
        return self


class Rerank(Config):
    """How the slow side re-scores the fast side's candidates."""

    depth: Positive = 20  # candidates per query
    beta: float | Literal["fit", "checkpoint"] = "fit"  # score = slow + beta * fast
    batch_items: Positive = 32  # pictures encoded at once
    batch_pairs: Positive = 256  # pairs scored at once
    cached_texts: Annotated[int, Field(ge=0)] = 20_000  # a shard with no more reads each once; some 20 kB a text


class Canary(Config):
    """A query that must find an item."""

    query: str
    key: str
    k: Positive = 10  # among so many


class Publish(Config):
    """What a generation must satisfy before it is served."""

    max_drop: Fraction = 0.05  # of R@K and nDCG below the generation being served, absolute, over the same queries
    max_shard_rejects: Fraction = 0.2  # of a shard's samples
    max_broken_shards: Annotated[int, Field(ge=0)] = 0  # that break off; the rest of such a shard is lost
    max_index_size: str | None = None  # of the index's lists, e.g. "2GB"
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None  # a query alone, on the machine that built the index
    canaries: tuple[Canary, ...] = ()


class DatasetConfig(Config):
    """One dataset and the job over it."""

    name: str
    shards: tuple[str, ...] = ()  # URLs, brace patterns or globs; empty: what `prepare` writes
    prepare: Annotated[PrepareDemo | PrepareCoco, Field(discriminator="kind")] | None = None
    key_scope: Literal["dataset", "shard"] = "dataset"  # "shard": keys are unique only within a shard
    encoder: str  # a name in configs/encoders, a YAML file, or a checkpoint folder
    scorer: str | None = None  # the same; null or none: no rerank
    captions: Captions = Captions()
    queries: Queries = Queries()
    embed: Embed = Embed()
    index: Index = Index()
    rerank: Rerank = Rerank()
    publish: Publish = Publish()

    @field_validator("scorer")
    @classmethod
    def _none_is_none(cls, value: str | None) -> str | None:
        """As --scorer none says it; YAML's own word is null."""
        return None if value is not None and value.lower() == "none" else value


class EncoderConfig(Config):
    """A model by hub id, local folder, or `builtin:<name>` for one shipped with fastslow."""

    path: str
    revision: str | None = None  # commit on the hub
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the machine has it and vectors agree


OptionValue = bool | int | float | str | tuple[str, ...]


class RunnerConfig(Config):
    """Where a job's Beam pipelines run: a runner with its options, or this machine."""

    options: dict[str, OptionValue] = {}  # Beam's, by name without dashes; without `runner`: this machine
    processes: Positive | Literal["gpus"] = 1  # on this machine, each with a model; "gpus": one for each GPU
    shared_folders: bool = False  # folders of this machine are mounted in the same place on every worker

    @model_validator(mode="after")
    def _processes_are_ours(self) -> Self:
        if self.processes != 1 and "runner" in self.options:
            raise ValueError(f"processes are of this machine, the workers of {self.options['runner']} are its own")
        return self

    def arguments(self) -> tuple[str, ...]:
        """The options as a command line has them.

        >>> RunnerConfig(options={"runner": "FlinkRunner", "parallelism": 2, "no_auth": True}).arguments()
        ('--runner=FlinkRunner', '--parallelism=2', '--no_auth')
        """
        return tuple(argument for name, value in self.options.items() for argument in _as_arguments(name, value))


def _as_arguments(name: str, value: OptionValue) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no_{name}"]
    return [f"--{name}={one}" for one in (value if isinstance(value, tuple) else (value,))]


ConfigType = TypeVar("ConfigType", bound=Config)


def folders() -> list[Path]:
    """Where configs are looked for by name: the working folder first, then those shipped with fastslow."""
    here = Path(__file__).resolve().parent.parent
    return [Path("configs"), here / "configs", here / "pipelines" / "configs"]


def find(kind: Literal["datasets", "encoders", "runners", "train"], name: str, *, what: str = "") -> Path:
    """The file of a config given by name or by path.

    Args:
      what: how messages call it; "": as its kind.

    Raises:
      ConfigError: there is none; lists the names there are, nearest first.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(f"{name}: no such config file")
        return Path(name)
    known: dict[str, Path] = {}
    for folder in folders():
        for path in sorted((folder / kind).glob("*.yaml")):
            known.setdefault(path.stem, path)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    kinds = {"datasets": "dataset", "encoders": "encoder", "runners": "runner", "train": "training config"}
    what = what or kinds[kind]
    other = "a YAML file or a checkpoint folder" if kind == "encoders" else "a YAML file"
    listed = ", ".join(sorted(known)) or "none"
    raise ConfigError(f"unknown {what} {name!r}{hint} Known: {listed}; or give {other}")


def parse_setting(text: str) -> tuple[list[str], Any]:
    """`a.b=value` (value as YAML) -> (["a", "b"], value).

    >>> parse_setting("rerank.depth=50")
    (['rerank', 'depth'], 50)
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"setting {text!r}: expected key=value, for example rerank.depth=50")
    try:
        return path.strip().split("."), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"setting {text!r}: the value is not YAML; put what is special in quotes") from error


def load(model: type[ConfigType], path: Path, *, settings: Sequence[str] = ()) -> ConfigType:
    """A config file, with settings laid over it.

    Args:
      settings: `key.path=value`, from the command line.

    Raises:
      ConfigError: file, key path, what was expected and what came.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(value).__name__}")
    for text in settings:
        keys, new = parse_setting(text)
        _set(value, keys, new, text)
    return parse(model, value, source=str(path), settings=settings)


def _set(value: dict[str, Any], keys: list[str], new: Any, text: str) -> None:
    for key in keys[:-1]:
        if value.get(key) is None:
            value[key] = {}
        value = value[key]
        if not isinstance(value, dict):
            raise ConfigError(f"setting {text!r}: {key} holds no keys")
    value[keys[-1]] = new


def parse(model: type[ConfigType], value: Any, *, source: str, settings: Sequence[str] = ()) -> ConfigType:
    """A config from plain values.

    Args:
      source: where they come from.
      settings: those of them that come from `--set`.

    Raises:
      ConfigError: the first thing wrong, with its key path; a misspelt key before the one that is missing for it.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        source = _blamed(first["loc"], settings) or source
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            allowed = _allowed(model, [str(part) for part in first["loc"][:-1]])
            raise ConfigError(f"{source}: {where}: unknown key; allowed here: {', '.join(allowed)}") from None
        if first["type"] == "missing":
            raise ConfigError(f"{source}: {where}: missing") from None
        said = first["msg"].removeprefix("Value error, ")
        found = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"  # of a section, it says what
        at = f"{source}: {where}: " if where else f"{source}: "
        raise ConfigError(f"{at}{said[0].lower()}{said[1:]}{found}") from None


def _blamed(where: Sequence[int | str], settings: Sequence[str]) -> str | None:
    """The last setting that says something at a key path; a union's tag may stand between its keys there."""
    for text in reversed(settings):
        left = iter(map(str, where))
        if all(key in left for key in parse_setting(text)[0]):
            return f"--set {text}"
    return None


def _allowed(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names allowed at a key path; follows nested models and tagged unions."""
    for part in path:
        field = model.model_fields.get(part)
        inner = [] if field is None else _models(field.annotation)
        if not inner:  # the tag of a union is a step of its own in pydantic's path
            continue
        model = next((m for m in inner if m.__name__.lower().endswith(path[-1].lower())), inner[0])
    return sorted(model.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models(inner)]
