"""Tokens to text as they come: only the last few are decoded again for each new one."""

from collections.abc import Callable, Sequence

_BYTES = 4  # of a character in UTF-8, at most


class TokenText:
    """Holds back the bytes of a character that is not whole yet."""

    def __init__(self, decode: Callable[[Sequence[int]], str], before: Sequence[int] = ()) -> None:
        """Begin after the tokens `before`, whose text is out."""
        self._decode = decode
        self._ids = list(before)
        self._context = max(len(self._ids) - 1, 0)  # decode from here on
        self._read = len(self._ids)  # the text of ids[:_read] is out

    def add(self, token: int) -> str:
        """Return the text that this token makes final."""
        self._ids.append(token)
        unread = self._decode(self._ids[self._read :])
        if 0 < len(unread) - len(unread.rstrip("\ufffd")) < _BYTES:
            return ""  # bytes of a character that the next tokens may make whole
        return self._new_text()

    def end(self) -> str:
        """Return what was held back; half a character is left out."""
        return self._new_text().rstrip("\ufffd")

    def _new_text(self) -> str:
        """Return what the unread tokens add, which depends on those before them."""
        before = self._decode(self._ids[self._context : self._read])
        text = self._decode(self._ids[self._context :])
        if len(text) <= len(before):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return text[len(before) :]
