r"""Read the JSON files of users, by lines or whole. All of them are read by the same rules.

1. The text is UTF-8, with or without a byte order mark. Lines end at ``\n``; a ``\r`` before it
   is white space. A whole file is refused if it is UTF-16, or compressed under a plain name.
2. orjson parses each line. The standard library parses what orjson refuses: NaN, and halves of
   surrogate pairs. If a name occurs twice in an object, the last value is used.
3. If both refuse, it is a ``NotJsonError``. Corpora count it and go on, up to their limit. Files of
   prompts, answers and labels are refused, and the message names the line. A line of a corpus that
   is too long is a ``TooLongError``. It fails its slice, unless such lines are to be skipped.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from mobilellama.config import DataError, one_line

log = logging.getLogger(__name__)

UTF8_MARK = b"\xef\xbb\xbf"
"""The byte order mark. Editors on Windows put it before UTF-8 text."""

LONGEST_LINE_BYTES = 1 << 26
"""The longest line that is parsed: 64 MiB.

Reading and encoding take 4 to 8 times the bytes of a text, and 54 times if it has no spaces
(measured with 100 MB). So a worker needs 0.5 GB for the longest line, and 3.6 GB in the worst case.
"""

MAX_DEPTH = 200
"""The greatest depth of objects and lists in one line. orjson can write 254."""

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")  # UTF-32 in one of its orders too
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"PAR1")
_START_BYTES = 256  # enough to recognise UTF-16 without a mark
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONG_INTEGER = re.compile(rb"[0-9]{19}")  # may exceed 64 bits, where orjson returns a float
_HALF_PAIRS, _NOT_NUMBERS = "half a surrogate pair, read as U+FFFD", "NaN or Infinity, read as null"


class NotJsonError(ValueError):
    """The bytes are not JSON, or not UTF-8. ``detail`` says where."""

    def __init__(self, detail: str, *, what: str = "not JSON") -> None:
        super().__init__(f"{what} ({detail})")
        self.detail = detail


class TooLongError(NotJsonError):
    """A line has more than ``LONGEST_LINE_BYTES``."""


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON line. Halves of surrogate pairs stay in it.

    Raises:
        NotJsonError: the line is not JSON, or not UTF-8.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _parse_leniently(data)


def require_short(line: bytes | memoryview) -> None:
    """Raise TooLongError if a line is longer than ``LONGEST_LINE_BYTES``."""
    if len(line) > LONGEST_LINE_BYTES:
        raise TooLongError(f"its line has more than {LONGEST_LINE_BYTES:,} bytes", what="too long")


def _parse_leniently(data: bytes) -> Any:
    """Parse with Python's json, which also takes NaN, Infinity and lone surrogates."""
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        detail = f"{error.reason} at byte {error.start} of it"
        raise NotJsonError(detail, what="invalid UTF-8") from None
    except RecursionError:
        raise NotJsonError("nested too deeply") from None
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos} of it" if data.strip() else "an empty line"
        raise NotJsonError(reason) from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise NotJsonError(one_line(error)) from None


def require_utf8(start: bytes, path: object) -> None:
    """Raise DataError if the first bytes of a file show that it is UTF-16 or compressed.

    Args:
        start: of the file.
        path: what the message calls the file.
    """
    sample = start[:_START_BYTES]
    if sample.startswith((*_UTF16_MARKS, *_PACKED)) or _alternates(sample):
        remedy = "Unpack it" if sample.startswith(_PACKED) else "Convert it to UTF-8"
        raise DataError(
            f"{path}: not UTF-8 text (it begins with {start[:8]!r}; UTF-16 and compressed files "
            f"have such bytes). {remedy}"
        )


def _alternates(sample: bytes) -> bool:
    """Return whether every second byte is mostly NUL, as in UTF-16 text of Latin letters."""
    if len(sample) < 4:
        return False
    nulls = sorted(half.count(0) / len(half) for half in (sample[::2], sample[1::2]))
    return nulls[0] == 0 and nulls[1] > 0.5


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (``FILE:LINE``, object) for each line of a file. Empty lines are skipped.

    Each object can be written as JSON again. Values that UTF-8 or JSON cannot hold are replaced.
    At the end of the file a warning counts the lines with such values.

    Raises:
        DataError: a line is not JSON, or not an object. The message names the line.
    """
    odd: Counter[str] = Counter()
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                require_utf8(line + file.peek(), path)
                line = line.removeprefix(UTF8_MARK)
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                value = parse_exactly(line, odd)
            except NotJsonError as error:
                raise DataError(f"{place}: is {error}. Fix the line") from None
            if not isinstance(value, dict):
                raise DataError(f"{place}: must be a JSON object. Fix the line")
            yield place, value
    for what, count in odd.items():
        log.warning("%s: %s of its lines have %s", path, f"{count:,}", what)


def parse_exactly(line: bytes, odd: Counter[str]) -> Any:
    """Return the value of a JSON line, which can be written again. Count replacements in `odd`.

    Raises:
        NotJsonError: the line is not JSON, not UTF-8, or nested deeper than ``MAX_DEPTH``.
    """
    try:
        if _LONG_INTEGER.search(line):
            raise ValueError
        value = orjson.loads(line)
        plain = True
    except ValueError:
        value = _parse_leniently(line)
        plain = False
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH:
        _require_shallow(value)
    return value if plain else _written(value, odd)


def _require_shallow(value: object) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = [item for item in below if isinstance(item, dict | list)]
        if not level:
            return
    raise NotJsonError(f"nested more than {MAX_DEPTH} deep")


def _written(value: object, odd: Counter[str]) -> Any:
    """Replace halves of surrogate pairs and NaN. Count them in `odd`, once for each kind."""
    found: set[str] = set()

    def replace(item: object) -> object:
        if isinstance(item, str):
            text = _SURROGATE.sub("\ufffd", item)
            if text != item:
                found.add(_HALF_PAIRS)
            return text
        if isinstance(item, float) and not abs(item) < float("inf"):
            found.add(_NOT_NUMBERS)
            return None
        if isinstance(item, dict):
            return {replace(name): replace(part) for name, part in item.items()}
        return [replace(part) for part in item] if isinstance(item, list) else item

    try:
        made = replace(value)
    except RecursionError:
        raise NotJsonError("nested too deeply") from None
    odd.update(found)
    return made


def parse_document(data: bytes, path: object) -> Any:
    """Return the value of a whole JSON file. Halves of surrogate pairs stay in it.

    Args:
        data: the file.
        path: what messages call it.

    Raises:
        DataError: the file is empty, truncated, not JSON, or not UTF-8. The message says where.
    """
    require_utf8(data, path)
    data = data.removeprefix(UTF8_MARK)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    if not data.strip():
        raise DataError(f"{path}: is empty. Fetch it again, or move it away")
    try:  # Python's json takes NaN and halves of surrogate pairs
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start:,}). Convert it to UTF-8"
        ) from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip())
        fault, remedy = (": truncated", "Fetch it again") if cut else ("", "Fix it")
        at = f"{error.msg} at line {error.lineno:,}, column {error.colno:,}"
        raise DataError(f"{path}: is not JSON{fault} ({at}). {remedy}") from None
    except RecursionError:
        raise DataError(f"{path}: is not JSON (nested too deeply). Fix it") from None
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({one_line(error)}). Fix it") from None


def read_document(path: Path) -> Any:
    """Return the value of a whole JSON file. Replace NaN and halves of surrogate pairs.

    Raises:
        DataError: see ``parse_document``.
    """
    odd: Counter[str] = Counter()
    try:
        value = _written(parse_document(path.read_bytes(), path), odd)
    except NotJsonError as error:
        raise DataError(f"{path}: is {error}. Fix it") from None
    for what in odd:
        log.warning("%s: has %s", path, what)
    return value
