"""A run's folder: names, attempts, verdict, stop file. This file does not import torch.

RUN/
  config.yaml            the resolved config of the newest attempt
  tokenizer.model        the dataset's tokenizer (or tokenizer/), so that a run can be exported
                         without the dataset
  template.yaml          a chat model's template, for the same reason
  digests.json           sha256 of these two
  attempts/NNNN.json     one for each start, created exclusively; the newest owns the run (fence)
  checkpoints/step-N/    whole checkpoints; step-N.tmp-NNNN while one is being written
  frozen/SHA.safetensors parameters that do not train, once; checkpoints name them by sha256
  metrics.jsonl          one JSON object for each interval
  tensorboard/, wandb/   the same for TensorBoard and Weights & Biases, if they are switched on
  logs/                  of a launch; stacks-NNNN-rank-R.txt and hang-NNNN.txt if ranks hung
  verdict.json           finished, stopped or failed, with its attempt
  stop                   create this file to stop the run at the end of its step
"""

import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobilellama.commandline.old_names import as_current
from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.files.atomic import fsync_path, sha256_of_file
from mobilellama.files.sealed import read_sealed_json, write_sealed_json
from mobilellama.files.temporary import temporary_path

log = logging.getLogger(__name__)

VerdictKind = Literal["finished", "stopped", "failed"]
_MOST_DIGITS = 18  # always fit into 64 bits
# [0-9], because \d also matches digits of other scripts.
_STEP = re.compile(rf"step-(0|[1-9][0-9]{{0,{_MOST_DIGITS - 1}}})")
_ATTEMPT = re.compile(rf"([0-9]{{4}}|[1-9][0-9]{{4,{_MOST_DIGITS - 1}}})\.json")
_LEFTOVER = re.compile(r"step-[0-9]+\.(tmp|old)-[0-9]+")


class FencedError(UserError):
    """A newer attempt owns the run. This one must not write."""

    final = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How an attempt ended."""

    kind: VerdictKind
    message: str
    attempt: int
    step: int


def step_of(name: str) -> int | None:
    """Return the step in the name of a checkpoint's folder; None for other names."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


class RunFolder:
    """The paths in a run's folder, and the operations on them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.tokenizer = self.path / "tokenizer.model"
        self.template = self.path / "template.yaml"
        self.digests = self.path / "digests.json"
        self.frozen = self.path / "frozen"
        self.attempts = self.path / "attempts"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.verdict = self.path / "verdict.json"
        self.stop = self.path / "stop"

    def require_usable(self, *, field: str = "run.folder") -> None:
        """Raise ConfigError unless the folder holds a run, or can hold a new one.

        It creates nothing, so a mistake is reported before any process is started.
        """
        there = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            rule = f"cannot be made or written to ({there} is no writable folder)"
            raise ConfigError(field, str(self.path), rule, "Give a writable folder")
        self._require_places(field)
        if self.attempts.is_dir():
            self._require_sane_attempts(field)
            return
        ours = (self.config, self.tokenizer, self.template, self.checkpoints, self.metrics)
        if taken := [path.name for path in ours if path.exists()]:
            rule = f"holds {', '.join(taken)} but no run, and a run would overwrite them"
            raise ConfigError(field, str(self.path), rule, "Give a new or empty folder")

    def _require_places(self, field: str) -> None:
        """Raise ConfigError if a file has the place of a folder or the reverse, or is read-only.

        Some files are written only at the end. An error there would come after all the work.
        """
        files = (self.config, self.tokenizer, self.template, self.digests, self.metrics)
        for path in (*files, self.verdict, self.stop):
            if path.is_dir():
                rule = f"{path} is a folder, and a file of that name is written there"
                raise ConfigError(field, str(self.path), rule, "Remove or rename it")
        for path in (self.attempts, self.checkpoints, self.frozen):
            if path.exists() and not path.is_dir():
                rule = f"{path} is a file, and a folder of that name is needed"
                raise ConfigError(field, str(self.path), rule, "Remove or rename it")
            if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
                rule = f"{path} may not be written to"
                raise ConfigError(field, str(self.path), rule, "Change its mode or its owner")

    def _require_sane_attempts(self, field: str) -> None:
        """Raise ConfigError for a file whose name is an impossibly large attempt number."""
        for path in self.attempts.glob("*.json"):
            if path.stem.isascii() and path.stem.isdigit() and len(path.stem) >= _MOST_DIGITS:
                rule = f"holds {self.attempts.name}/{path.name}, whose number no attempt reaches"
                raise ConfigError(field, str(self.path), rule, "Remove that file")

    def create(self, *, field: str = "run.folder") -> None:
        """Create the folder and its sub-folders.

        Raises:
            ConfigError: it cannot be created or written to, or holds files that are not a run's.
        """
        self.require_usable(field=field)
        for folder in (self.attempts, self.checkpoints):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe = temporary_path(folder / "probe")
                probe.touch()
                probe.unlink()
            except OSError as error:
                rule = f"{folder} cannot be made or written to ({error.strerror})"
                raise ConfigError(field, str(self.path), rule, "Give a writable folder") from None

    def attempt_numbers(self) -> list[int]:
        """Return the numbers of all attempts, in rising order."""
        names = (_ATTEMPT.fullmatch(path.name) for path in self.attempts.glob("*.json"))
        return sorted(int(match[1]) for match in names if match)

    def newest_attempt(self) -> int:
        """Return the number of the newest attempt; 0 if there is none."""
        return max(self.attempt_numbers(), default=0)

    def begin_attempt(self, facts: Mapping[str, object]) -> int:
        """Create the next attempt's file, exclusively, and return its number."""
        facts = {"host": socket.gethostname(), "pid": os.getpid(), **facts}
        while True:
            number = self.newest_attempt() + 1
            path = self.attempts / f"{number:04}.json"
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                continue  # another start took this number just now
            write_sealed_json(path, facts)
            return number

    def require_newest(self, attempt: int) -> None:
        """Raise FencedError unless `attempt` is the newest. Call it before every write."""
        newest = self.newest_attempt()
        if newest != attempt:
            facts = self.read_attempt(newest)
            who = f"on {facts['host']}, process {facts['pid']}" if facts else "just begun"
            raise FencedError(
                f"{self.path}: attempt {attempt} was superseded by attempt {newest} ({who}), which "
                "goes on; this one stops"
            )

    def read_attempt(self, number: int) -> dict[str, Any]:
        """Return what an attempt wrote of itself; empty if it was killed before it could.

        So it is with a damaged file, which is warned of.
        """
        path = self.attempts / f"{number:04}.json"
        try:
            if not path.stat().st_size:
                return {}
            facts = read_sealed_json(path, owner=None)
            stored = facts.get("config")
            return facts | {"config": as_current(stored)} if isinstance(stored, dict) else facts
        except OSError:
            return {}
        except ValueError as error:
            log.warning("%s: is damaged (%s), and ignored", path, error)
            return {}

    def write_verdict(self, verdict: Verdict) -> None:
        """Write verdict.json.

        Raises:
            FencedError: a newer attempt owns the run.
        """
        self.require_newest(verdict.attempt)
        write_sealed_json(self.verdict, vars(verdict))

    def read_verdict(self) -> Verdict | None:
        """Return the newest attempt's verdict; None if it has none, or a damaged one."""
        try:
            verdict = Verdict(**read_sealed_json(self.verdict, owner=None))
        except OSError:
            return None
        except (ValueError, TypeError) as error:
            log.warning("%s: is damaged (%s), and ignored", self.verdict, error)
            return None
        return verdict if verdict.attempt == self.newest_attempt() else None

    def write_digests(self) -> None:
        """Write the sha256 of tokenizer and template. Both must be written already."""
        paths = (self.tokenizer, self.template, *sorted((self.path / "tokenizer").glob("*")))
        files = {str(p.relative_to(self.path)): sha256_of_file(p) for p in paths if p.is_file()}
        write_sealed_json(self.digests, {"files": files})

    def require_whole_texts(self) -> None:
        """Raise DataError if tokenizer or template have changed since the run wrote them.

        A run of an older version has no digests, and is not checked. A missing file is not an error
        here: the reader may have been given another one.
        """
        if not self.digests.is_file():
            return
        path, what = self.digests, "is damaged"
        try:
            files = dict(read_sealed_json(path, owner=None)["files"])
            for name, sha256 in files.items():
                path, what = self.path / name, "is missing, or not as the run wrote it"
                if path in (self.tokenizer, self.template) and not path.exists():
                    continue
                if not path.is_file() or sha256_of_file(path) != sha256:
                    break
            else:
                return
        except (ValueError, TypeError, KeyError):
            pass
        raise DataError(
            f"{path}: {what}. Start the run's command again, which writes it again, or restore it "
            f"from a copy. To use the files as they are, remove {self.digests}"
        )

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the records of metrics.jsonl. Lines that are damaged or cut off are skipped."""
        if not self.metrics.is_file():
            return []
        records = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
        return records

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` steps."""
        return self.checkpoints / f"step-{step}"

    def checkpoint_steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, in rising order."""
        if not self.checkpoints.is_dir():
            return []
        steps = (step_of(path.name) for path in self.checkpoints.iterdir())
        return sorted(step for step in steps if step is not None)

    def remove_leftovers(self) -> None:
        """Remove checkpoints that killed attempts left half written or half deleted."""
        for path in self.checkpoints.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    def remove_checkpoint(self, step: int, attempt: int) -> None:
        """Delete a checkpoint. It is renamed first, so a half-deleted one never looks complete."""
        self.require_newest(attempt)
        doomed = self.checkpoint(step).with_name(f"step-{step}.old-{attempt}")
        self.checkpoint(step).rename(doomed)
        fsync_path(self.checkpoints)
        shutil.rmtree(doomed, ignore_errors=True)
