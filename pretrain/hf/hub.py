"""Push an exported folder to the Hugging Face Hub.

    mobilellama pretrain push FOLDER --repo USER/NAME [--private]

The repository is made if it does not exist. Files that it has are not uploaded again, so that the
same command continues after a broken connection. The token comes from 'hf auth login' or HF_TOKEN.
HF_ENDPOINT names another server.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellama import log as logs
from mobilellama.config import ConfigError, UserError, one_line
from mobilellama.run_record import RECORD_FILE

log = logging.getLogger(__name__)

# A former export's weights in other shards: transformers would load model.safetensors rather
# than the shards beside it, and a former adapter on top of a model, so what this export does not
# have must go.
_STALE = [
    "model*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    RECORD_FILE,
]
_WHOLE = ("config.json", "tokenizer.json", "README.md")
_WHOLE_ADAPTER = ("adapter_config.json", "tokenizer.json", "README.md")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'pretrain push'."""

    folder: str
    """What 'pretrain export', 'sft export' or 'sft merge' wrote."""
    repo: str
    """USER/NAME or ORGANISATION/NAME."""
    private: bool = False
    """Make the repository private; one that exists and is public is refused."""

    def __post_init__(self) -> None:
        require_repo_id("repo", self.repo)


def main(config: Config) -> int:
    """Check the folder and push it."""
    logs.configure()
    push(Path(config.folder), config.repo, private=config.private)
    return 0


def require_repo_id(field: str, repo: str) -> None:
    """Raise ConfigError unless `repo` is a name that the Hub allows, with its owner."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    rule = "" if repo.count("/") == 1 else "must name the owner and the repository"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        rule = f"is not a name that the Hub allows ({one_line(error).rstrip('.')})"
    if rule:
        raise ConfigError(field, repo, rule, "Give USER/NAME or ORGANISATION/NAME")


def missing_files(folder: Path) -> list[str]:
    """Return what a folder lacks of a whole export: nothing where it is one."""
    wanted = _WHOLE_ADAPTER if (folder / _WHOLE_ADAPTER[0]).is_file() else _WHOLE
    return [name for name in wanted if not (folder / name).is_file()]


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Make the repository where needed, upload what it lacks, and return its address.

    Raises:
        ConfigError: the folder is no whole export, or the repository is public against
            `private`.
        UserError: the server refused, or cannot be reached; the folder is as it was.
    """
    if missing := missing_files(folder):
        raise ConfigError(
            "folder",
            str(folder),
            f"is not an exported model: it has no {' and no '.join(missing)}",
            "Give the --output of 'mobilellama pretrain export', 'sft export' or 'sft merge'",
        )
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return _upload(folder, repo, private)
    except UserError:
        raise
    except HfHubHTTPError as error:
        reason = _refusal(error, repo)
    except OfflineModeIsEnabled:
        reason = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, which forbids it; unset it"
    except (httpx2.HTTPError, OSError) as error:
        reason = f"the connection failed ({one_line(error).rstrip('.')})"
    except (RuntimeError, ValueError) as error:
        # The client wraps what stops the upload of one file, and rejected metadata, in these.
        reason = one_line(error).rstrip(".")
        if error.__cause__:
            reason += f" ({one_line(error.__cause__).rstrip('.')})"
    raise UserError(
        f"push to {_endpoint()}/{repo}: {reason}. The local folder {folder} is whole; push it "
        f"with\n  mobilellama pretrain push {folder} --repo {repo}"
        + (" --private" if private else "")
    )


def _upload(folder: Path, repo: str, private: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi(library_name="mobilellama")
    # None leaves it to the owner's default, which may be private too.
    api.create_repo(repo, private=private or None, exist_ok=True)
    before = api.model_info(repo)
    if private and not before.private:
        raise ConfigError(
            "private",
            "true",
            f"{repo} exists already and is public",
            "Make it private in its settings, or push to another repository",
        )
    log.info("pushing %s to %s", folder, api.endpoint)
    api.upload_folder(
        repo_id=repo, folder_path=folder, commit_message="Export", delete_patterns=_STALE
    )
    address = f"{api.endpoint}/{repo}"
    changed = api.model_info(repo).sha != before.sha
    print(f"{address}: {'pushed ' + str(folder) if changed else 'had these files already'}")
    return address


def _refusal(error: Any, repo: str) -> str:
    """Say in one sentence why the server refused, and what to do."""
    from huggingface_hub import get_token

    status, owner = error.response.status_code, repo.split("/")[0]
    if status == 401:
        what = "refused the token" if get_token() else "wants a token, but there is none"
        return f"the server {what}; log in with 'hf auth login' or set HF_TOKEN"
    if status == 403:
        return f"the token may not write to '{owner}'; use one with write access, or another owner"
    if status == 404:
        return f"the server has no '{repo}', and no owner '{owner}' under which to make it"
    said = " ".join(error.server_message.split()) if error.server_message else one_line(error)
    return f"the server answered {status} ({said.rstrip('.')})"


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT
