"""A model's folder on this machine, named by its path or by its name on the Hugging Face Hub.

    runs/chat                        a folder that is there always wins
    runs/gone                        a path too, if there is a folder runs
    mtgv/MobileLLaMA-1.4B            the newest commit of the Hub's repository
    mtgv/MobileLLaMA-1.4B@v1.0       a tag, a branch or a commit of it

A name is resolved to a commit once, and its files are downloaded into huggingface_hub's cache.
Processes that want the same file wait for one download: the cache has a lock for each file, which
all processes on the same file system see. With HF_HUB_OFFLINE the cache is all that is read.
pretrain/hf/hub_names.py gives all ranks of a run the same commit.
"""

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mobilellama.config import ConfigError, DataError, one_line
from mobilellama.files.atomic import read_json, whole_file

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

log = logging.getLogger(__name__)

MODEL = "model"
"""The key of a note that says which model made a file."""
# No "..": the revision is part of a path in the cache.
_NAME = re.compile(r"(?!.*\.\.)([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(\w[\w./-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WITHOUT_OWNER = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w.-]*(?:@\w[\w./-]*)?")
_OF_FILES = (".json", ".jsonl", ".parquet", ".zst", ".gz", ".yaml", ".yml", ".model")
_TOO_MANY = 429
_PAUSES_S = (2.0, 4.0, 8.0, 16.0, 32.0)
_WEIGHTS = (".safetensors", ".bin")
_SHARD = re.compile(r"-\d+-of-\d+\.")
_TEXTS = (".json", ".model", ".txt", ".jinja", ".yaml")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """Where a model lies, and what to call it in records."""

    path: str
    """Its folder. If the value that was given is not a name on the Hub: that value."""
    name: str
    """NAME@COMMIT of a model from the Hub; else the value that was given."""
    revision: str | None = None
    """The branch, tag or commit that was given with a name on the Hub."""

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

    @contextmanager
    def errors_by_name(self) -> Iterator[None]:
        """Name a model from the Hub by its name in the errors of the work inside.

        Its folder is in a cache, so its path is not what the user gave. Of damaged files the error
        also says where they are.
        """
        try:
            yield
        except ConfigError as error:
            if not self.is_from_hub or not any(self.path in str(part) for part in error.args):
                raise
            parts = [str(part).replace(self.path, self.name) for part in error.args]
            raise type(error)(*parts) from None
        except DataError as error:
            if not self.is_from_hub or self.path not in str(error):
                raise
            said = str(error).replace(self.path, self.name).removesuffix(".")
            again = f"To download them again, remove {Path(self.path).parent.parent}"
            raise DataError(f"{said}. Its files are in {self.path}. {again}") from None


class FindModel(Protocol):
    """Returns the folder of a model: ``find_model``, or what asks it only once for a run."""

    def __call__(self, value: str, *, field: str, weights: bool = True) -> ModelFolder:
        """Return the folder of a value; see ``find_model``."""
        ...


class NotNowError(ConfigError):
    """The Hub cannot be asked, or its answer is an error that can pass. A retry can succeed."""

    final = False


def has_form_of_name(value: str) -> bool:
    """Return whether a value is OWNER/NAME or OWNER/NAME@REVISION by its characters alone.

    It may be a path too: ``may_be_on_hub`` also looks at the folders of this machine.
    """
    return _NAME.fullmatch(value) is not None


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


def find_model(
    value: str,
    *,
    field: str,
    weights: bool = True,
    offline_by: str | None = None,
    commit: str | None = None,
    is_downloaded: bool = False,
) -> ModelFolder:
    """Return the folder of a model, downloaded if it is named by its name on the Hub.

    Args:
        value: a path, or OWNER/NAME or OWNER/NAME@REVISION.
        field: the field that gives it, for errors.
        weights: whether they are needed. A tokenizer or a config is there without them.
        offline_by: the flag for which the command reads the cache alone, for errors. None: only
            HF_HUB_OFFLINE decides that.
        commit: what a name was resolved to before. None: the Hub is asked which it is.
        is_downloaded: whether another process has downloaded the commit. The Hub is then asked only
            if the files are not in the cache.

    Raises:
        ConfigError: it is no path that exists, and the Hub has no such model.
        NotNowError: the Hub cannot be asked, or cannot answer now.
    """
    match = _NAME.fullmatch(value)
    if match is None or (commit is None and not may_be_on_hub(value)):
        return ModelFolder(path=value, name=value)
    import httpx2
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    kind: type[ConfigError] = ConfigError
    remedy = "Give a folder, or OWNER/NAME or OWNER/NAME@REVISION of a model on the Hub"
    wanted = commit or match[2]
    try:
        if offline_by or _is_offline():
            folder = _downloaded(match[1], wanted, weights)
        else:
            folder = _download(match[1], wanted, weights, is_downloaded=is_downloaded)
    except GatedRepoError:
        rule = "is on the Hub only for users who accepted its terms"
        remedy = "Accept them on its page, and log in with 'hf auth login' or set HF_TOKEN"
    except RevisionNotFoundError:
        rule = f"names a revision that {match[1]} does not have"
        if commit is not None:
            rule = f"was commit {commit} at an earlier start, which {match[1]} no longer has"
            remedy = "Name another revision, OWNER/NAME@REVISION, or give another run.folder"
    except RepositoryNotFoundError:
        rule = f"is no folder here and no model at {_endpoint()} that your token may read"
    except LocalEntryNotFoundError:
        rule = f"is no folder here, was not downloaded before, and {_unreachable(offline_by)}"
        kind = ConfigError if offline_by or _is_offline() else NotNowError
        revision = f" --revision {wanted}" if wanted else ""
        remedy += f". 'hf download {match[1]}{revision}' downloads it where there is a network"
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        rule = f"is no folder here, and {_endpoint()} could not give it ({one_line(error)})"
        kind = ConfigError if _refuses(error) else NotNowError
    else:
        log.info("%s = %s is commit %s, in %s", field, value, folder.name, folder)
        name = f"{match[1]}@{folder.name}"
        return ModelFolder(path=str(folder), name=name, revision=match[2])
    raise kind(field, value, rule, remedy) from None


def name_on_hub(name: str) -> str | None:
    """Return OWNER/NAME of a model from the Hub; None of a path.

    Args:
        name: of ``ModelFolder``. A name without a commit is a path there.
    """
    match = _NAME.fullmatch(name)
    return match[1] if match and _COMMIT.fullmatch(match[2] or "") else None


def name_and_revision(value: str) -> tuple[str, str | None]:
    """Return OWNER/NAME and the revision of a name on the Hub. A path stays as it is."""
    if not may_be_on_hub(value):
        return value, None
    name, _, revision = value.partition("@")
    return name, revision or None


def public_name(name: str) -> str:
    """Return what to call a model on other machines: NAME@COMMIT, or the last part of a path.

    Args:
        name: of ``ModelFolder``.
    """
    return name if name_on_hub(name) else Path(name).name


def is_same_model(value: str, name: str, revision: str | None) -> bool:
    """Return whether a value names the model of a record without asking the Hub.

    Args:
        value: what is given now. It names the same model if it has no revision, the record's
            commit, or the revision with which the run began. A branch can have moved since then.
        name: of ``ModelFolder``, when the run began.
        revision: of ``ModelFolder``, when the run began.
    """
    match = _NAME.fullmatch(value)
    if match is None or match[1] != name_on_hub(name) or not may_be_on_hub(value):
        return False
    return match[2] in (None, name.rpartition("@")[2], revision)


def _download(
    name: str, revision: str | None, weights: bool, *, is_downloaded: bool = False
) -> Path:
    """Return the folder of a repository's files, whose name is the commit."""
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    if is_downloaded:
        with suppress(LocalEntryNotFoundError):  # this process has another cache
            return _downloaded(name, revision, weights)
    try:
        api = HfApi(library_name="mobilellama")
        found = _asked_patiently(lambda: api.model_info(name, revision=revision))
    except httpx2.TransportError as error:
        log.warning("%s gives no answer (%s): using the cache", _endpoint(), one_line(error))
        return _downloaded(name, revision, weights)
    files = [file.rfilename for file in found.siblings or [] if "/" not in file.rfilename]
    kinds = _WEIGHTS if weights else ()
    kind = next((kind for kind in kinds if any(file.endswith(kind) for file in files)), "")
    # By the commit: a second look at the revision could find a later one.
    folder = _snapshot(name, found.sha, kind)
    _keep_ref(folder, revision or constants.DEFAULT_REVISION)
    return folder


def _asked_patiently(ask: Callable[[], "ModelInfo"]) -> "ModelInfo":
    """Return the Hub's answer. While it says that too many ask, wait and ask again.

    The tasks of a job array and the nodes of a run ask at the same moment, so each waits another
    time.
    """
    from huggingface_hub.errors import HfHubHTTPError

    for pause_s in _PAUSES_S:
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code != _TOO_MANY:
                raise
            log.info("%s is asked too often: asking again", _endpoint())
            time.sleep(pause_s * random.uniform(0.5, 1.5))
    return ask()


def _keep_ref(folder: Path, revision: str) -> None:
    """Note in the cache which commit a revision is, so that it is found there offline.

    The client notes it where it resolves the revision by itself.
    """
    ref = folder.parent.parent / "refs" / revision
    if revision == folder.name:
        return
    try:
        if not ref.is_file() or ref.read_text() != folder.name:
            ref.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(ref) as file:
                file.write(folder.name.encode())
    except OSError as error:  # a cache of another user
        log.warning("%s: not written (%s); offline, give the commit", ref, one_line(error))


def _downloaded(name: str, revision: str | None, weights: bool) -> Path:
    """Return the folder of what was downloaded before.

    Raises:
        LocalEntryNotFoundError: nothing was, or the weights are needed and not all of them were.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder = _snapshot(name, revision, "", local_files_only=True)
    if weights and not any(_has_all_weights(folder, ending) for ending in _WEIGHTS):
        raise LocalEntryNotFoundError(f"{folder} has no weights, or not all of them")
    return folder


def _has_all_weights(folder: Path, ending: str) -> bool:
    """Return whether a folder has a kind of weights, with all files that its index names."""
    files = {path.name for path in folder.glob(f"*{ending}")}
    indexes = [*folder.glob(f"*{ending}.index.json")]
    if not indexes:
        return any(_SHARD.search(name) is None for name in files)
    named: set[str] = set()
    for index in indexes:
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            named |= {*read_json(index)["weight_map"].values()}
    return bool(named) and named <= files


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


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _refuses(error: Exception) -> bool:
    """Return whether an error is a refusal that stays: neither a full queue nor a fault."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status is not None and 400 <= status < 500 and status not in (408, 429)


def _unreachable(offline_by: str | None) -> str:
    if offline_by:
        return f"with {offline_by} nothing is downloaded"
    if _is_offline():
        return "HF_HUB_OFFLINE forbids asking the Hub"
    return f"{_endpoint()} cannot be reached"
