"""What a line must hold to give a text, and what a bad one is told."""

import pytest

from mobilellama.tokenize.sources.texts import BadRecordError, parse_text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON (an empty line)"),
        (b"  \t", "not JSON (an empty line)"),
        (b"hello", "not JSON (Expecting value at character 0 of it)"),
        (b'{"text": "cut of', "not JSON (Unterminated string starting at at character 9 of it)"),
        (b'{"text": "a"} {"text": "b"}', "not JSON (Extra data at character 14 of it)"),
        (b'{"text": "a\x01"}', "not JSON (Invalid control character at at character 11 of it)"),
        (b"[" * 100_000, "not JSON (nested too deeply)"),
        (b'{"text": "\xff"}', "invalid UTF-8 (invalid start byte at byte 10 of it)"),
        (b'{"text": "\xed\xa0\x80"}', "invalid UTF-8 (invalid continuation byte at byte 10 of it)"),
        (b'{"meta": NaN, "text": "\xe2\x80"}', "invalid UTF-8"),
        (b"[1, 2]", "not an object but an array"),
        (b'"text"', "not an object but a string"),
        (b"null", "not an object but null"),
        (b'{"meta": {"text": "a"}}', "no 'text'"),
        (b'{"text": null}', "'text' is not a string but null"),
        (b'{"text": 7}', "'text' is not a string but a number"),
        (b'{"text": true}', "'text' is not a string but a boolean"),
        (b'{"text": ["a"]}', "'text' is not a string but an array"),
        (b'{"text": {"a": 1}}', "'text' is not a string but an object"),
    ],
)
def test_a_line_without_text_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(BadRecordError) as error:
        parse_text(line, "text")
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"text": "a", "score": NaN}', "a"),
        (b'{"score": -Infinity, "text": "a"}', "a"),
        (b'{"text": "a", "meta": "\\ud800"}', "a"),
        (b'{"text": "\\ud83d\\ude00"}', "😀"),
        (b'{"text": "a\\u0000b\\nc"}', "a\0b\nc"),
        (b'{"text": "a", "text": "b"}', "b"),
        (b'{"text": "a", "big": ' + b"9" * 40 + b"}", "a"),
        (b'{"text": "a"}\r', "a"),
        ('{"text": "x\u2028y\u0085z"}'.encode(), "x\u2028y\u0085z"),
        (b'{"meta": {}, "text": " "}', " "),
    ],
)
def test_unusual_json_that_is_valid_is_read(line: bytes, text: str) -> None:
    assert parse_text(line, "text") == text
