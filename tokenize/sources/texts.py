"""A record's text, or why it gives none."""

import orjson

from mobilellama.files.json_lines import NotJsonError, TooLongError, parse_json, require_short


class BadRecordError(Exception):
    """A record that gives no text; the message is the reason."""


class LongRecordError(BadRecordError):
    """A record that is too long to be read."""


def parse_text(line: bytes | memoryview, column: str) -> str:
    r"""Return the text of a JSON line (without its ``\n``); lone surrogates are left in.

    Raises:
        LongRecordError: the line is too long.
        BadRecordError: not JSON, not UTF-8, not an object, or no string in `column`.
    """
    try:
        require_short(line)
    except TooLongError as error:
        raise LongRecordError(str(error)) from None
    try:  # most lines give their text at once, without the checks of what may be wrong
        text = orjson.loads(line)[column]
        if isinstance(text, str):
            return text
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    try:
        record = parse_json(bytes(line))
    except NotJsonError as error:
        raise BadRecordError(str(error)) from None
    return text_of_record(record, column)


def text_of_record(record: object, column: str) -> str:
    """Return the text of a JSON object; lone surrogates are left in.

    Raises:
        BadRecordError: not an object, or no string in `column`.
    """
    if not isinstance(record, dict):
        raise BadRecordError(f"not an object but {_kind_of(record)}")
    if column not in record:
        raise BadRecordError(f"no '{column}'")
    return require_text(record[column], column)


def require_text(value: object, column: str) -> str:
    """Return `value` if it is a string, or bytes that are one in UTF-8.

    Raises:
        BadRecordError: it is something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise BadRecordError(
                f"'{column}' is of bytes that are not UTF-8 text ({error.reason} at byte "
                f"{error.start} of it): cast the column to a string"
            ) from None
    raise BadRecordError(f"'{column}' is not a string but {_kind_of(value)}")


def _kind_of(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    numbers = {bool: "a boolean", int: "a number", float: "a number", bytes: "bytes"}
    kind = type(value)
    return (names | numbers).get(kind) or f"of type {kind.__name__}"
