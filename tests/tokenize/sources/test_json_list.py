"""A JSON list is read element by element, whatever its size; lines under another name are seen."""

import io
import json
from typing import Any

import pytest

from mobilellama.config import DataError
from mobilellama.tokenize.sources import json_list
from mobilellama.tokenize.sources.json_list import holds_lines, read_elements


def elements(content: bytes) -> list[Any]:
    return [value for value, _ in read_elements(io.BytesIO(content), "a.json")]


LIST = [{"text": "a é 漢 \\ ] , ["}, "b", None, -1.5e3, [1, [2]], {"n": {}}, True]


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_elements_are_found_wherever_a_block_ends(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, indent: int | None
) -> None:
    """A block of one byte ends in the middle of each number, escape and letter of two bytes."""
    monkeypatch.setattr(json_list, "_BLOCK_BYTES", block_bytes)
    content = json.dumps(LIST, indent=indent, ensure_ascii=False).encode()
    assert elements(content) == LIST
    assert elements(b"\xef\xbb\xbf" + content + b"\n \n") == LIST


def test_an_element_that_is_too_long_is_refused_before_it_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_list, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(json_list, "_LONGEST_ELEMENT", 1_000)
    assert elements(json.dumps(["a", "b" * 900, "c"]).encode()) == ["a", "b" * 900, "c"]
    file = io.BytesIO(json.dumps(["a", "b" * 100_000, "c"]).encode())
    message = r"a\.json: element 1 of its list, from 0, is damaged, or has more than 1,000 char"
    with pytest.raises(DataError, match=message):
        list(read_elements(file, "a.json"))
    assert file.tell() < 5_000
    short = json.dumps({"columns": ["d" * 5_000]}).encode()  # no list, which is read as a whole
    with pytest.raises(ValueError, match="the list has no end"):
        elements(short)


def test_what_is_read_with_each_element_sums_up_to_the_list() -> None:
    content = json.dumps(["x" * n for n in range(50)]).encode()
    ends = [end for _, end in read_elements(io.BytesIO(content), "a.json")]
    assert ends == sorted(ends) and ends[-1] == len(content) - 1  # before the bracket


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the list has no end"),
        (b"[1, 2", "the list has no end"),
        (b'["a"["b"]]', "',' is missing"),
        (b'["a"] 7', "something follows the list"),
    ],
)
def test_what_is_no_whole_list_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        elements(content)


@pytest.mark.parametrize("content", [b'["\xff"]', b"[nul]", b'["a"'])
def test_what_is_no_json_or_no_text_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):
        elements(content)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1}\n{"a": 2}\n', True),
        (b'\n\n{"a": 1}\n\n{"a": 2}', True),
        (b'torn\n{"a": 1}\n{"a": 2}\n', True),  # no JSON as a whole
        (b'{"a": 1}\n', False),  # one object is one document
        (b'{\n"a": 1\n}', False),
        (b'[\n{"a": 1},\n{"a": 2}\n]', False),
        (b'[\n{"a": 1}\n,\n{"a": 2}\n]', False),  # lines that are objects, in a list
    ],
)
def test_lines_of_objects_are_told_from_one_value(data: bytes, expected: bool) -> None:
    assert holds_lines(data) is expected
