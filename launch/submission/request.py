"""A step as it is to be launched: its folder, its job scripts, and what launch.json will say."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from mobilellama.files.atomic import whole_file
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.folder import Job, Launch, LaunchFolder
from mobilellama.launch.steps import STEPS, Step, folder_of, with_frozen_configs
from mobilellama.launch.submission.render import Script
from mobilellama.launch.submission.snapshot import snapshot_name

_NAME = re.compile(r"[^A-Za-z0-9_.+-]+")


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """A step as it is to be launched."""

    step_name: str
    arguments: list[str]
    """The stage's."""
    slurm: SlurmConfig
    cwd: str

    @property
    def step(self) -> Step:
        """The step."""
        return STEPS[self.step_name]

    @property
    def folder(self) -> LaunchFolder:
        """Where the launch is kept."""
        return LaunchFolder.of(self.step, folder_of(self.step, self.arguments))

    @property
    def name(self) -> str:
        """The job's name."""
        return self.slurm.job_name or _NAME.sub("-", self.folder.made.name)

    @property
    def frozen(self) -> tuple[list[str], dict[Path, bytes]]:
        """The arguments with copies for their config files, and those copies."""
        return with_frozen_configs(self.arguments, self.folder.root, self.step.presets)

    def launch(self, jobs: Sequence[Job] = ()) -> Launch:
        """Return what launch.json will say."""
        return Launch(
            step=self.step_name,
            name=self.name,
            arguments=self.frozen[0],
            folder=str(self.folder.made),
            cwd=self.cwd,
            submitted=datetime.now().astimezone().isoformat(timespec="seconds"),
            tasks=self.slurm.tasks if self.step.finish else 0,
            jobs=list(jobs),
        )

    def write_configs(self) -> None:
        """Write the copies of the config files."""
        for path, content in self.frozen[1].items():
            with whole_file(path) as file:
                file.write(content)

    def scripts(self, code: Path | None = None) -> list[Script]:
        """Return the job scripts, the first part's first.

        Args:
            code: the snapshot; None names the one that would be taken.
        """
        whole = Script(
            step=self.step,
            part="tasks" if self.step.finish else "run",
            name=self.name,
            arguments=self.frozen[0],
            folder=self.folder,
            cwd=self.cwd,
            code=code or self.folder.code / snapshot_name(),
            python=self.slurm.python or sys.executable,
            signature=self.launch().signature,
            slurm=self.slurm,
        )
        if not self.step.finish:
            return [whole]
        return [whole, replace(whole, part="finish", name=f"{self.name}-finish")]
