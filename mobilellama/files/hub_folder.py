"""A model's folder on this machine, named by its path or by its name on the Hugging Face Hub.

    runs/chat                        a folder that is there always wins
    runs/gone                        a path too, if there is a folder runs
    mtgv/MobileLLaMA-1.4B            the newest commit of the Hub's repository
    mtgv/MobileLLaMA-1.4B@v1.0       a tag, a branch or a commit of it

A name is resolved to a commit once, and its files are downloaded into huggingface_hub's cache.
Processes that want the same file wait for one download: the cache has a lock for each file, which
all processes on the same file system see. With HF_HUB_OFFLINE the cache is all that is read.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import ConfigError, one_line

log = logging.getLogger(__name__)

MODEL = "model"
"""The key of a note that says which model made a file."""
_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
_WITHOUT_OWNER = re.compile(r"[A-Za-z0-9][\w.-]*(?:@[\w./-]+)?")
_OF_FILES = (".json", ".jsonl", ".parquet", ".zst", ".gz", ".yaml", ".yml", ".model")
_WEIGHTS = (".safetensors", ".bin")
_TEXTS = (".json", ".model", ".txt", ".jinja", ".yaml")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """Where a model lies, and what to call it in records."""

    path: str
    """Its folder, or what was given where that is no name."""
    name: str
    """NAME@COMMIT of a model from the Hub; else what was given."""

    @property
    def is_from_hub(self) -> bool:
        """Whether it was named by its name on the Hub."""
        return self.name != self.path

    @property
    def short_name(self) -> str:
        """The model's own name, without its owner, its commit or the folders above it."""
        return Path(self.name.partition("@")[0] if self.is_from_hub else self.path).resolve().name

    @property
    def note(self) -> dict[str, str]:
        """What a file of answers notes of a model from the Hub, beside its sha256."""
        return {MODEL: self.name} if self.is_from_hub else {}


def may_be_on_hub(value: str, *, owned: bool = True) -> bool:
    """Return whether a value is a name on the Hub by its form, and no path.

    A value is a path if something is there, if its first part is a folder, or if it ends as a file
    of data does.

    Args:
        value: of a field that takes both.
        owned: whether a name must have an owner, OWNER/NAME.
    """
    pattern = _NAME if owned or "/" in value.partition("@")[0] else _WITHOUT_OWNER
    if pattern.fullmatch(value) is None or value.endswith(_OF_FILES) or Path(value).exists():
        return False
    owner, slash, _ = value.partition("/")
    return not (slash and Path(owner).is_dir())


def find_model(value: str, *, field: str, weights: bool = True) -> ModelFolder:
    """Return the folder of a model, downloaded if it is named by its name on the Hub.

    Args:
        value: a path, or OWNER/NAME or OWNER/NAME@REVISION.
        field: the field that gives it, for errors.
        weights: whether they are needed. A tokenizer or a config is there without them.

    Raises:
        ConfigError: it is no path that exists, and the Hub has no such model or cannot be asked.
    """
    match = _NAME.fullmatch(value)
    if match is None or not may_be_on_hub(value):
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
        folder = _download(match[1], match[2], weights)
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
        log.info("%s = %s is commit %s, in %s", field, value, folder.name, folder)
        return ModelFolder(path=str(folder), name=f"{match[1]}@{folder.name}")
    raise ConfigError(field, value, rule, remedy) from None


def name_on_hub(value: str) -> str | None:
    """Return OWNER/NAME of a value that names a model on the Hub; None of a path."""
    match = _NAME.fullmatch(value)
    return match[1] if match and match[2] and may_be_on_hub(value) else None


def is_same_model(value: str, name: str) -> bool:
    """Return whether a value names the model of a record without asking the Hub.

    Args:
        value: what is given now. Without a revision, or with the record's commit, it is the same.
        name: of ``ModelFolder``, when the run began.
    """
    match, before = _NAME.fullmatch(value), _NAME.fullmatch(name)
    if match is None or before is None or not may_be_on_hub(value):
        return False
    return match[1] == before[1] and before[2] is not None and match[2] in (None, before[2])


def _download(name: str, revision: str | None, weights: bool) -> Path:
    """Return the folder of a repository's files, whose name is the commit."""
    import httpx2
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return _downloaded(name, revision, weights)
    try:
        found = HfApi(library_name="mobilellama").model_info(name, revision=revision)
    except (httpx2.ConnectError, httpx2.TimeoutException):
        return _downloaded(name, revision, weights)
    if not weights:
        return _snapshot(name, revision, "")
    files = [file.rfilename for file in found.siblings or [] if "/" not in file.rfilename]
    kind = next((kind for kind in _WEIGHTS if any(file.endswith(kind) for file in files)), "")
    return _snapshot(name, revision, kind)


def _downloaded(name: str, revision: str | None, weights: bool) -> Path:
    """Return the folder of what was downloaded before.

    Raises:
        LocalEntryNotFoundError: nothing was, or no weights were and they are needed.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder = _snapshot(name, revision, "", local_files_only=True)
    if weights and not any(any(folder.glob(f"*{ending}")) for ending in _WEIGHTS):
        raise LocalEntryNotFoundError(f"{folder} has no weights")
    return folder


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
