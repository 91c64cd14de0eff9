"""A model's folder on this machine, named by its path or by its name on the Hugging Face Hub.

    runs/chat                        a folder that is there always wins
    mtgv/MobileLLaMA-1.4B            the newest commit of the Hub's repository
    mtgv/MobileLLaMA-1.4B@v1.0       a tag, a branch or a commit of it

A name is resolved to a commit once, and its files are downloaded into huggingface_hub's cache.
Processes that want the same file wait for one download: the cache has a lock for each file, which
all processes on the same file system see. With HF_HUB_OFFLINE the cache is all that is read.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import ConfigError, one_line

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
_WEIGHTS = (".safetensors", ".bin")
_TEXTS = (".json", ".model", ".txt", ".jinja")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """Where a model lies, and what to call it in records."""

    path: str
    """Its folder, or what was given where that is no name."""
    name: str
    """NAME@COMMIT of a model from the Hub; else what was given."""


def find_model(value: str, *, field: str) -> ModelFolder:
    """Return the folder of a model, downloaded if it is named by its name on the Hub.

    Args:
        value: a path, or OWNER/NAME or OWNER/NAME@REVISION.
        field: the field that gives it, for errors.

    Raises:
        ConfigError: it is no path that exists, and the Hub has no such model or cannot be asked.
    """
    match = _NAME.fullmatch(value)
    if match is None or Path(value).exists():
        return ModelFolder(path=value, name=value)
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    remedy = "Give a folder, or OWNER/NAME or OWNER/NAME@REVISION of a model on the Hub"
    try:
        folder = _download(match[1], match[2])
    except GatedRepoError:
        rule = "may be read on the Hub by those alone who accepted its terms"
        remedy = "Accept them on its page, and log in with 'hf auth login' or set HF_TOKEN"
    except RevisionNotFoundError:
        rule = f"names a revision that {match[1]} does not have"
    except RepositoryNotFoundError:
        rule = f"is no folder here and no model at {_endpoint()} that your token may read"
    except LocalEntryNotFoundError:
        rule = f"is no folder here, was not downloaded before, and {_unreachable()}"
        remedy += f". 'hf download {match[1]}' downloads it where there is a network"
    except (HfHubHTTPError, OSError) as error:
        rule = f"is no folder here, and {_endpoint()} could not give it ({one_line(error)})"
    else:
        return ModelFolder(path=str(folder), name=f"{match[1]}@{folder.name}")
    raise ConfigError(field, value, rule, remedy) from None


def name_on_hub(value: str) -> str | None:
    """Return OWNER/NAME of a value that names a model on the Hub; None of a path."""
    match = _NAME.fullmatch(value)
    return match[1] if match and match[2] and not Path(value).exists() else None


def is_same_model(value: str, name: str) -> bool:
    """Return whether a value names the model of a record without asking the Hub.

    Args:
        value: what is given now. Without a revision, or with the record's commit, it is the same.
        name: of ``ModelFolder``, when the run began.
    """
    match, before = _NAME.fullmatch(value), _NAME.fullmatch(name)
    if match is None or before is None or Path(value).exists():
        return False
    return match[1] == before[1] and before[2] is not None and match[2] in (None, before[2])


def _download(name: str, revision: str | None) -> Path:
    """Return the folder of a repository's files, whose name is the commit."""
    import httpx2
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return _downloaded(name, revision)
    try:
        found = HfApi(library_name="mobilellama").model_info(name, revision=revision)
    except (httpx2.ConnectError, httpx2.TimeoutException):
        return _downloaded(name, revision)
    files = [file.rfilename for file in found.siblings or [] if "/" not in file.rfilename]
    kind = next((kind for kind in _WEIGHTS if any(file.endswith(kind) for file in files)), "")
    return _snapshot(name, revision, kind)


def _downloaded(name: str, revision: str | None) -> Path:
    """Return the folder of what was downloaded before."""
    folder = _snapshot(name, revision, _WEIGHTS[0], local_files_only=True)
    if any(folder.glob(f"*{_WEIGHTS[0]}")):
        return folder
    return _snapshot(name, revision, _WEIGHTS[1], local_files_only=True)


def _snapshot(
    name: str, revision: str | None, kind: str, *, local_files_only: bool = False
) -> Path:
    """Download the texts and one kind of weights at the top of a repository."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        name,
        revision=revision,
        allow_patterns=[f"*{ending}" for ending in (*_TEXTS, kind) if ending],
        ignore_patterns=["*/*"],
        local_files_only=local_files_only,
    )
    return Path(folder)


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _unreachable() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids asking the Hub"
    return f"{_endpoint()} cannot be reached"
