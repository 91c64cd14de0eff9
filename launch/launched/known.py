"""The launches of this user, so that 'launch status' without a run can list them."""

import os
from pathlib import Path

from mobilellama.files.atomic import whole_file
from mobilellama.files.temporary import remove_abandoned, temporaries

_KEPT = 200
_ABANDONED_S = 86_400  # the home folder may be shared with other machines


def known_file() -> Path:
    """Return the file that lists them, a path a line, the newest last."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "mobilellama" / "launches"


def remember(made: Path) -> None:
    """Put a launch at the end of the list; a list that cannot be written is no reason to fail."""
    path = known_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [line for line in known() if line != made]
        text = "".join(f"{line}\n" for line in [*lines, made][-_KEPT:])
        remove_abandoned(temporaries(path.parent.iterdir()), others_after_s=_ABANDONED_S)
        with whole_file(path) as file:
            file.write(text.encode(errors="surrogateescape"))
    except OSError:
        return


def known() -> list[Path]:
    """Return what was launched, the newest last."""
    try:
        text = known_file().read_text(errors="surrogateescape")
        return [Path(line) for line in text.splitlines() if line]
    except OSError:
        return []
