"""'tokenize run' as a process of its own, which a test may kill."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

RECEIPTS = "*/[0-9]*.json"


def start(*arguments: str | int | Path) -> subprocess.Popen[str]:
    """Start ``mobilellama tokenize run`` as the leader of a process group."""
    command = [sys.executable, "-m", "mobilellama", "tokenize", "run", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)
