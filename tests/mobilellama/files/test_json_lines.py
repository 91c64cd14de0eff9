"""One reader of JSON that users bring: what is tolerated, what is counted, what names its line."""

import gzip
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import DataError
from mobilellama.files.json_lines import (
    MAX_DEPTH,
    NotJsonError,
    parse_document,
    parse_exactly,
    parse_json,
    read_document,
    read_json_lines,
)

MARK = b"\xef\xbb\xbf"


def read(path: Path, content: bytes) -> list[tuple[str, dict[str, Any]]]:
    path.write_bytes(content)
    return list(read_json_lines(path))


def test_json_lines_come_with_their_places_as_editors_count(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    found = read(path, '{"a": 1}\r\n\n  \n{"b": "x\u2028y"}'.encode())
    assert found == [(f"{path}:1", {"a": 1}), (f"{path}:4", {"b": "x\u2028y"})]


def test_a_file_from_a_windows_editor_is_read_as_any_other(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    plain = read(path, b'{"a": 1}\n{"a": 2}\n')
    assert read(path, MARK + b'{"a": 1}\r\n{"a": 2}\r\n') == plain
    assert read(path, MARK) == read(path, MARK + b"\r\n") == read(path, b"") == []
    with pytest.raises(DataError, match=r"f.jsonl:2: is not JSON"):  # a mark elsewhere is none
        read(path, b'{"a": 1}\n' + MARK + b'{"a": 2}\n')


def test_what_json_cannot_write_again_is_replaced_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = tmp_path / "f.jsonl"
    lines = [
        rb'{"a": "x\ud800y\udc00", "\udfff": [{"b": "\ud83d\ude00\ud83d"}]}',
        b'{"a": NaN, "b": [Infinity, -Infinity, 1.5]}',
        rb'{"a": "\ud83d\ude00"}',
        b'{"a": "\\ud800", "b": NaN}',
    ]
    found = [row for _, row in read(path, b"\n".join(lines))]
    assert found == [
        {"a": "x\ufffdy\ufffd", "\ufffd": [{"b": "\U0001f600\ufffd"}]},
        {"a": None, "b": [None, None, 1.5]},
        {"a": "\U0001f600"},
        {"a": "\ufffd", "b": None},
    ]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 2 of its lines have half a surrogate pair, read as U+FFFD",
        f"{path}: 2 of its lines have NaN or Infinity, read as null",
    ]
    json.dumps(found).encode()


def test_of_a_name_that_stands_twice_the_last_value_counts(tmp_path: Path) -> None:
    lines = b'{"a": 1, "a": 2}\n{"a": 1, "a": NaN, "a": 3}'
    assert [row for _, row in read(tmp_path / "f", lines)] == [{"a": 2}, {"a": 3}]


def test_a_long_integer_keeps_its_digits(tmp_path: Path) -> None:
    (_, row), (_, text) = read(
        tmp_path / "f", b'{"id": 123456789012345678901234567890}\n{"id": "12345678901234567890"}'
    )
    assert row["id"] == 123456789012345678901234567890
    assert text["id"] == "12345678901234567890"


DEEP = b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "is not JSON (Expecting property name"),
        (b'{"a": "\xff"}', "is invalid UTF-8 (invalid start byte at byte 7 of it). Fix the line"),
        (b'{"a": "\xed\xa0\x80"}', "is invalid UTF-8 ("),
        (b'{"a": "\0"}', "is not JSON (Invalid control character"),
        (b"\0\0\0", "is not JSON ("),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON (Exceeds the limit"),
        (b'{"a": ' + b"[" * 100_000, "is not JSON ("),
        (b"[" * 100_000 + b"]" * 100_000, "is not JSON (nested too deeply). Fix the line"),
        (DEEP, "is not JSON (nested more than 200 deep). Fix the line"),
        ('["ä"]'.encode(), "must be a JSON object. Fix the line"),
        (b"null", "must be a JSON object. Fix the line"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "f.jsonl"
    with pytest.raises(DataError) as error:
        read(path, b"{}\n" + line + b"\n{}\n")
    assert str(error.value).startswith(f"{path}:2: {message}")


def test_as_deep_as_allowed_is_written_again(tmp_path: Path) -> None:
    import orjson

    ((_, row),) = read(tmp_path / "f", DEEP.replace(b"[]", b"0"))
    assert orjson.loads(orjson.dumps(row)) == row


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ('{"a": 1}\n'.encode("utf-16"), "Convert it to UTF-8"),
        ('{"a": 1}\n'.encode("utf-16-be"), "Convert it to UTF-8"),
        (b"\xfe\xff" + '{"a": 1}\n'.encode("utf-16-be"), "Convert it to UTF-8"),
        ('{"a": 1}\n'.encode("utf-32"), "Convert it to UTF-8"),
        (gzip.compress(b'{"a": 1}\n', mtime=0), "Unpack it"),
    ],
)
def test_a_file_in_another_encoding_is_refused_as_a_whole(
    tmp_path: Path, content: bytes, remedy: str
) -> None:
    path = tmp_path / "f.jsonl"
    with pytest.raises(DataError) as error:
        read(path, content)
    assert str(error.value).startswith(f"{path}: not UTF-8 text (it begins with b'")
    assert str(error.value).endswith(f". {remedy}")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_document(path)


def test_a_nul_byte_spoils_its_line_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"f.jsonl:1: is not JSON"):
        read(tmp_path / "f.jsonl", b'{"a": "\0"}\n{"a": "b"}\n')


def test_a_document_is_read_with_a_mark_and_without_what_utf_8_has_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(MARK + rb'{"a": ["\ud800", 1e999, 2]}' + b"\r\n")
    assert read_document(path) == {"a": ["\ufffd", None, 2]}
    assert f"{path}: has half a surrogate pair, read as U+FFFD" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty. Fetch it again, or move it away"),
        (b"[1, 2", "is not JSON: truncated ("),
        (b"[1 2]", "is not JSON ("),
        (b'["\xe4"]', "not UTF-8 ("),
        (b"[" * 100_000 + b"]" * 100_000, "is not JSON (nested too deeply). Fix it"),
        (b"[" + b"9" * 5000 + b"]", "is not JSON (Exceeds the limit"),
    ],
)
def test_a_broken_document_is_named(content: bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        parse_document(content, Path("f.json"))
    assert str(error.value).startswith(f"f.json: {message}")


def test_both_readings_of_a_line_agree() -> None:
    """Where orjson refuses, Python's reading has the same values."""
    for line in (b"{}", b'{"a": [1, 2.5, "\xc3\xa4", null, true]}', b'"x"', b"1e40", b"-0"):
        assert parse_json(line) == parse_exactly(line, Counter())
    with pytest.raises(NotJsonError, match="empty line"):
        parse_json(b" \t")
