"""A .json file of records: a list, read element by element, or lines under another name."""

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from mobilellama.config import DataError
from mobilellama.files.json_lines import LONGEST_LINE_BYTES, NotJsonError, parse_json

_BLOCK_BYTES = 4 << 20
_LONGEST_ELEMENT = 6 * LONGEST_LINE_BYTES  # JSON may write a byte of text as \u0041
_SPACE = b" \t\n\r"
_MARK = re.compile(r"[ \t\n\r]*([\[,\]])[ \t\n\r]*")  # before an element, or after the last
_FIRST_LINES = 20


def read_elements(file: BinaryIO, path: object) -> Iterator[tuple[object, int]]:
    """Yield a JSON list's elements, and about how many bytes are read with each.

    A few megabytes of it are in memory at a time, or the longest element.

    Args:
        file: the file, at its beginning.
        path: what messages call it.

    Raises:
        DataError: an element is too long to be held.
        ValueError: it is no list, or empty, or not JSON, or not UTF-8.
    """
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    scan = json.JSONDecoder().raw_decode
    text, before, ended, number = "", "[", False, 0
    while not ended:
        block = file.read(max(_BLOCK_BYTES, len(text)))  # an element may be longer
        ended = not block
        text += decode(block, final=ended)
        at = 0
        while mark := _MARK.match(text, at):
            if (mark[1], before) == ("]", ","):
                if (text[mark.end() :].encode() + file.read()).strip(_SPACE):
                    raise ValueError("something follows the list")
                return
            if mark[1] != before:
                raise ValueError(f"'{before}' is missing")
            try:
                value, end = scan(text, mark.end())
            except (json.JSONDecodeError, RecursionError):
                if ended:
                    raise
                _require_short(len(text) - mark.end(), path, number)
                break
            if not _MARK.match(text, end):
                break  # a number may go on
            yield value, file.tell() - (len(text) - end)
            at, before, number = end, ",", number + 1
        text = text[at:]
    raise ValueError("the list has no end")


def _require_short(length: int, path: object, number: int) -> None:
    """Raise DataError if so many characters are no whole element."""
    if length > _LONGEST_ELEMENT:
        raise DataError(
            f"{path}: element {number:,} of its list, from 0, is damaged, or has more than "
            f"{_LONGEST_ELEMENT:,} characters. Fix or split it, or write a .jsonl file, whose "
            "lines that are too long can be left out"
        )


def holds_lines(data: bytes) -> bool:
    """Return whether a file without its mark holds an object a line.

    Either the first line is an object by itself and not the only one, or the file is no JSON as
    a whole, and of its first lines several are objects.
    """
    lines = (line for line in _lines(data.lstrip()) if not line.isspace())
    first = [_is_object(line) for line in itertools.islice(lines, _FIRST_LINES)]
    if first[:1] == [True]:
        return len(first) > 1
    return sum(first) > 1 and not _is_json(data)


def _lines(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


def _is_json(data: bytes) -> bool:
    try:
        parse_json(data)
    except NotJsonError:
        return False
    return True


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except NotJsonError:
        return False
