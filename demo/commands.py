"""Running the project's commands and showing them as a user would type them."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from mobilellama.run_folder import RunFolder, VerdictKind


def start_anew(out: Path) -> None:
    """Make the folder, or empty one that an earlier demo has made; touch no other."""
    mark = out / ".made-by-demo"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        sys.exit(f"demo: --output = {out}: holds files that no demo has made. Give another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mark.touch()


def say(title: str) -> None:
    """Print the title of a part."""
    print(f"\n=== {title}", flush=True)


def command(verb: str, fields: Mapping[str, object]) -> list[str]:
    """Return the command line; ``a__b`` stands for ``a.b``."""
    pairs = [(f"--{name.replace('__', '.')}", str(value)) for name, value in fields.items()]
    arguments = [part for pair in pairs for part in pair]
    return [sys.executable, "-m", "mobilellama", *verb.split(), *arguments]


def mobilellama(verb: str, **fields: object) -> None:
    """Run one of the project's commands."""
    execute(command(verb, fields))


def show(argv: Iterable[str], *, lines: Iterable[str] = ()) -> None:
    """Print a command as a user would type it, with the lines that it is given, if any."""
    line = shlex.join(argv).replace(f"{sys.executable} -m mobilellama", "mobilellama")
    line = line.replace(sys.executable, "python")
    if lines:
        line = f"printf '%s\\n' {shlex.join(lines)} | {line}"
    print(f"$ {line}", flush=True)


def execute(argv: list[str], *, lines: Iterable[str] = ()) -> None:
    """Run a command, perhaps with lines as its input; end the demo if it fails."""
    show(argv, lines=lines)
    text = "".join(f"{line}\n" for line in lines) or None
    done = subprocess.run(argv, input=text, text=True, check=False)
    if done.returncode:
        sys.exit(f"demo: the command above ended with exit code {done.returncode}")


def interrupt(argv: list[str], run: RunFolder, *, after_step: int) -> None:
    """Start a command and press Ctrl-C once the run is so far."""
    show(argv)
    process = subprocess.Popen(argv, start_new_session=True)
    try:
        while steps_done(run) < after_step:
            if process.poll() is not None:
                sys.exit("demo: training ended before it could be interrupted")
            time.sleep(0.2)
        print("\n(demo: Ctrl-C)\n", flush=True)
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
    finally:
        if process.poll() is None:  # the demo itself is being stopped
            os.killpg(process.pid, signal.SIGTERM)
    print(f"\nverdict.json: {require_verdict(run, 'stopped')}\n", flush=True)


def require_verdict(run: RunFolder, kind: VerdictKind) -> str:
    """Return what the run's verdict says; end the demo unless it is of this kind.

    A run that was stopped exits with 0, as one that has finished.
    """
    verdict = run.read_verdict()
    if verdict is None or verdict.kind != kind:
        found = verdict.message if verdict else "none"
        sys.exit(f"demo: {run.verdict} should say '{kind}', but its verdict is: {found}")
    return verdict.message


def steps_done(run: RunFolder) -> int:
    """Return the last step in metrics.jsonl."""
    return max((record["step"] for record in run.read_metrics()), default=0)
