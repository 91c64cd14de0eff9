"""SLURM's word, for tests that need no cluster."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a program in scontrol's place say this of jobs, by number; it knows no others."""
    folder, records = tmp_path / "bin", tmp_path / "records"
    folder.mkdir()
    records.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    (folder / "scontrol").write_text(
        f'#!/bin/sh\ncat "{records}/$4" 2>/dev/null ||\n'
        '{ echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }\n'
    )
    (folder / "scontrol").chmod(0o755)
    (folder / "sacct").write_text("#!/bin/sh\nexit 1\n")
    (folder / "sacct").chmod(0o755)

    def say(**jobs: str) -> None:
        for number, text in jobs.items():
            number = number.removeprefix("job")
            lines = [f"JobId={number} {line}\n" for line in text.split(";")]
            (records / number).write_text("".join(lines))

    return say
