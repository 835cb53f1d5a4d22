"""Snapshots of hub repositories: fetched once, used offline from then on, safetensors and text files only."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from encoders.model_files import CONVERT, PREPROCESSING_FILES, SHARDED_WEIGHTS, TOKENIZER_FILES, WEIGHTS, weight_files
from schemas.errors import ModelError

logger = logging.getLogger(__name__)

WANTED = [WEIGHTS, "model-*.safetensors", SHARDED_WEIGHTS, *PREPROCESSING_FILES]
PICTURE_FILES = ("preprocessor_config.json", "processor_config.json")

CONVERTER, CONVERSION = "SFconvertbot", "Adding `safetensors` variant of this model"
"""Account and title of the hub's own conversions; transformers trusts the same two."""


def snapshot(repository: str, revision: str | None) -> Path:
    """A hub repository's folder in the local cache, downloaded if the cache has no complete copy.

    A cached copy wins over a newer one on the hub: the same config means the same vectors every night; pin the
    revision to say which. Where the main branch has only pickled weights, the hub's own safetensors conversion
    (a pull request of the hub's converter) is taken and said so.

    Args:
      repository: owner/name.
      revision: branch, tag, commit or refs/pr/<number>; None is the main branch.

    Raises:
      ModelError: not a hub id, or neither cache nor hub have it with safetensors weights.
    """
    found = cached(repository, revision)
    if found is not None:
        return found
    with _in_our_words(repository, revision):
        folder = _download(repository, revision)
        if not _has_weights(folder) and revision is None and (converted := _conversion(repository)) is not None:
            logger.warning("%s has no safetensors weights; taking its conversion %s", repository, converted)
            folder = _download(repository, converted)
    if not _has_weights(folder):
        raise ModelError(f"{repository}: its hub repository has no safetensors weights; {CONVERT}")
    weight_files(folder)
    return folder


def cached(repository: str, revision: str | None) -> Path | None:
    """The complete copy in the local cache, the main branch's before a conversion's; None if there is none.

    Raises:
      ModelError: not a hub id.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    revisions: list[str | None] = [revision]
    with _in_our_words(repository, revision):
        if revision is None:
            references = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "refs"
            revisions += sorted(path.relative_to(references).as_posix() for path in references.glob("refs/pr/*"))
        for name in revisions:
            config = try_to_load_from_cache(repository, "config.json", revision=name)
            if isinstance(config, str) and _complete(Path(config).parent):
                return Path(config).parent
    return None


def offered(repository: str, revision: str | None, *, timeout_s: float) -> None:
    """Asks the hub whether it would give a repository; fetches nothing.

    Raises:
      ModelError: not a hub id, or the hub does not answer, or not with that repository.
    """
    from huggingface_hub import HfApi

    with _in_our_words(repository, revision):
        HfApi().model_info(repository, revision=revision or "main", timeout=timeout_s)


@contextmanager
def _in_our_words(repository: str, revision: str | None) -> Iterator[None]:
    """What the hub's client raises, as a ModelError with both ways out."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # its own client, whatever that is called

    try:
        yield
    except HFValidationError:
        raise ModelError(f"{repository}: expected an existing folder, builtin:NAME or a hub id (owner/name)") from None
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:  # OSError: offline mode, connection, not found
        at = f" at revision {revision}" if revision else ""
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"{repository}{at}: not a folder here, not in the hub's local cache, and the hub did not give it "
            f"({reason}). "
            f"Either connect this machine to the hub (HF_ENDPOINT names a mirror), or copy the model's folder here and "
            f"set `path` to it"
        ) from error


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=revision, allow_patterns=WANTED))


def _conversion(repository: str) -> str | None:
    """The revision of the hub's own open conversion of a repository, if it made one."""
    from huggingface_hub import HfApi

    for found in HfApi().get_repo_discussions(
        repository, author=CONVERTER, discussion_type="pull_request", discussion_status="open"
    ):
        if found.author == CONVERTER and found.title == CONVERSION:
            return f"refs/pr/{found.num}"
    return None


def _has_weights(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() or (folder / SHARDED_WEIGHTS).is_file()


def _complete(folder: Path) -> bool:
    """Whether all that a model needs is there: other programs cache only the files they use."""
    if not (folder / "config.json").is_file() or not _has_weights(folder):
        return False
    try:
        weight_files(folder)
    except ModelError:  # parts of a sharded model are missing
        return False
    return all(any((folder / name).is_file() for name in names) for names in (PICTURE_FILES, TOKENIZER_FILES))
