"""SLURM's way to write durations."""

import re

_FORMS = (
    re.compile(r"(?P<m>\d+)(:(?P<s>\d+))?"),
    re.compile(r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)"),
    re.compile(r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?"),
)
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def limit_seconds(text: str) -> int | None:
    """Return the seconds of a time limit as sbatch's --time takes it; None if it is none.

    Forms (man sbatch): M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.
    """
    for form in _FORMS:
        if text.isascii() and (match := form.fullmatch(text)):
            parts = match.groupdict()
            return sum(int(value) * _SECONDS[unit] for unit, value in parts.items() if value)
    return None
