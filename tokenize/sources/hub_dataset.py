"""A dataset on the Hugging Face Hub, read from there file by file.

``datasets`` says which files a split has, at which commit: it knows the rules by which names and
cards become configurations and splits. Then each file is a slice, read by ranges of bytes as any
file behind a URL (remote.py). Nothing is stored on this machine.

A slice's source is ``OWNER/NAME@COMMIT/PATH``. So the plan holds the commit, and every slice of a
dataset is of the same one.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from mobilellama.config import ConfigError, one_line

HUB_URL = "hf://datasets/"
"""Begins the URLs of datasets on the Hub."""
_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@(.+))?")
_SOURCE = re.compile(r"([\w.-]+(?:/[\w.-]+)?@[0-9a-f]{40})/(.+)", re.DOTALL)
_FILE = re.compile(HUB_URL + _SOURCE.pattern, re.DOTALL)
# The builders of datasets that take each record of a file as it is.
_BUILDERS = ("parquet", "json", "csv")


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """The files of a split."""

    folder: str
    """OWNER/NAME@COMMIT."""
    paths: tuple[str, ...]
    """Of the files in it, in byte order."""

    @property
    def url(self) -> str:
        """Where they are."""
        return f"{HUB_URL}{self.folder}"


def url_and_path(source: str) -> tuple[str, str] | None:
    """Return the folder's URL and the path in it of a slice's source; None for another source."""
    match = _SOURCE.fullmatch(source)
    return (f"{HUB_URL}{match[1]}", match[2]) if match else None


def name_and_revision(dataset: str) -> tuple[str, str | None]:
    """Return the parts of OWNER/NAME or OWNER/NAME@REVISION."""
    match = _NAME.fullmatch(dataset)
    return (match[1], match[2]) if match else (dataset, None)


def cannot_open(dataset: str, error: Exception) -> ConfigError:
    """Return the error to raise where ``datasets`` raised one of its own."""
    rule = f"cannot be opened by datasets ({one_line(error).removesuffix('.')})"
    remedy = (
        "Give a local folder, or a dataset's name on the Hub with its name and split. "
        "For a private or gated dataset, log in with 'hf auth login' or set HF_TOKEN"
    )
    return ConfigError("sources.dataset", dataset, rule, remedy)


def find_hub_files(
    dataset: str, *, name: str | None, split: str, endings: tuple[str, ...]
) -> HubFiles | str:
    """Return the files of a split, or why they cannot be read from the Hub.

    Args:
        dataset: OWNER/NAME or OWNER/NAME@REVISION.
        name: of the configuration; None: the only or default one.
        split: its name.
        endings: of files that can be read.

    Raises:
        ConfigError: there is no such dataset, configuration or split, or the Hub does not answer.
    """
    import datasets
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "the Hub is not asked (HF_HUB_OFFLINE)"
    repository, revision = name_and_revision(dataset)
    try:
        builder = datasets.load_dataset_builder(repository, name, revision=revision)
    except Exception as error:  # not found, no network, unknown configuration, a script, ...
        raise cannot_open(dataset, error) from None
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in _BUILDERS:
        return f"datasets reads it as '{kind}'"
    found = builder.config.data_files or {}
    if split not in found:
        rule = f"{dataset} has no such split (it has {', '.join(map(str, found))})"
        raise ConfigError("sources.split", split, rule, "Name one of them")
    matches = [_FILE.fullmatch(str(url)) for url in found[split]]
    folders = {match[1] for match in matches if match}
    paths = sorted((match[2] for match in matches if match), key=str.encode)
    if len(folders) != 1 or len(paths) < len(matches):
        return "its files are not all in one repository"
    if odd := [path for path in paths if not path.endswith(endings)]:
        return f"it has {PurePosixPath(odd[0]).name}, which is not one of {', '.join(endings)}"
    return HubFiles(folder=folders.pop(), paths=tuple(paths))
