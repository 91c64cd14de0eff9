"""The tokenizer of a Hugging Face folder: its tokenizer.json, used with ``tokenizers``.

The ids are those of transformers' PreTrainedTokenizerFast on the same files, with two differences
that training needs:

1. A text that spells a special token is encoded as text.
2. A text can continue another one, without the space that some tokenizers put before each text.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from mobilellama.config import ConfigError, one_line
from mobilellama.files.atomic import whole_file
from mobilellama.tokenizers.hf_files import (
    CHAT_TEMPLATE_FILE,
    CONFIG_FILE,
    TOKENIZER_FILE,
    begin_with,
    write_hf_files,
)
from mobilellama.tokenizers.text_tokenizer import (
    HF_FOLDER,
    SENTENCEPIECE_FILE,
    SpecialToken,
    require_same_tokenizer,
)
from mobilellama.tokenizers.tokenizer_json import TextStep, Token, TokenizerJson

if TYPE_CHECKING:  # it is imported where it is used
    from tokenizers import Tokenizer

_MAP_FILE = "special_tokens_map.json"
_ADDED_FILE = "added_tokens.json"
_FILES = (
    TOKENIZER_FILE, CONFIG_FILE, _MAP_FILE, _ADDED_FILE, CHAT_TEMPLATE_FILE, SENTENCEPIECE_FILE,
    "vocab.json", "merges.txt",
)  # fmt: skip
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_REMEDY = "Give a folder as transformers' save_pretrained writes it"


class HfTokenizer:
    """The tokenizer of a folder with tokenizer.json and, most often, tokenizer_config.json.

    Args:
        path: the folder, or the file.
        field: the field that names it, for errors.
        content: the content to use in place of the file's. None: the file's.
        eos_token: the token that ends a text, in place of the one that the files name.

    Raises:
        ConfigError: a file is missing or broken, tokenizer.json lacks a token that another file
            names, or ``tokenizers`` gives an added token another id than the file.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        field: str = "tokenizer",
        content: TokenizerJson | None = None,
        eos_token: str | None = None,
    ) -> None:
        given = Path(path)
        self.path = given / TOKENIZER_FILE if given.is_dir() else given
        if not self.path.is_file():
            raise ConfigError(field, str(path), f"holds no {TOKENIZER_FILE}", _REMEDY)
        self._field = field
        self._replaced = content
        self._bytes = self.path.read_bytes() if content is None else _written(content)
        self.content = read_content(self.path, field) if content is None else content
        """The content of tokenizer.json."""
        folder = self.path.parent
        # tokenizer_config.json overrides the map. Older folders have only the map.
        self.config = _read_json(folder / _MAP_FILE, field) | _read_json(
            folder / CONFIG_FILE, field
        )
        """The content of tokenizer_config.json."""
        self._config_changed = eos_token is not None and eos_token != self.eos_token
        if self._config_changed:
            self.config["eos_token"] = eos_token
        self._backend = self._make(self.content)
        self._vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        named = {*self._named, *added_tokens(folder, field=field)}
        if missing := sorted(named - {*self._vocabulary}):
            rule = f"lacks {', '.join(missing[:4])}, which the files beside it name"
            raise ConfigError(field, str(self.path), rule, _REMEDY)
        self._require_own_ids()
        self.sha256 = hashlib.sha256(self._bytes).hexdigest()
        """sha256 of tokenizer.json, as ``save`` writes it."""
        self.vocab_size = max(self._vocabulary.values()) + 1
        """The highest id plus one, added tokens included."""
        self.specials = self._special_tokens()
        """The added tokens, and the tokens named bos, eos, unk or pad. An added token is read from
        text if it is neither named nor marked special, in either file."""
        self.begins_after_special = not any(
            step["type"] == "Metaspace" and step.get("prepend_scheme") == "first"
            for step in steps_of(self.content.get("pre_tokenizer"), "pretokenizers")
        )
        """False: the Metaspace pre-tokenizer puts its mark only before the first text."""

    def ended_by(self, eos_token: str) -> "HfTokenizer":
        """Return the same tokenizer, with another token that ends a text. ``save`` keeps it."""
        if eos_token == self.eos_token:
            return self
        return HfTokenizer(
            self.path, field=self._field, content=self._replaced, eos_token=eos_token
        )

    @property
    def bos_id(self) -> int | None:
        """Id of the bos_token that the files name."""
        return self._id("bos_token")

    @property
    def eos_id(self) -> int | None:
        """Id of the eos_token that the files name."""
        return self._id("eos_token")

    @property
    def pad_id(self) -> int | None:
        """Id of the pad_token. If there is none, of the unk_token, else of the eos_token."""
        ids = (self._id(name) for name in ("pad_token", "unk_token", "eos_token"))
        return next((i for i in ids if i is not None), None)

    @property
    def bos_token(self) -> str:
        """The spelling of the begin token, or an empty string if there is none."""
        return _spelling(self.config.get("bos_token")) or ""

    @property
    def unknown_id(self) -> int | None:
        """Id that stands for text without a token. None: there is none."""
        unknown = self.content["model"].get("unk_token")
        return None if unknown is None else self._vocabulary.get(unknown)

    @property
    def eos_token(self) -> str | None:
        """The spelling of the token that ends a text. None: the files name none."""
        return _spelling(self.config.get("eos_token"))

    def token_of(self, token_id: int) -> str | None:
        """Return the spelling of an id. None: no token has it."""
        return self._backend.id_to_token(token_id)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of whole texts, each as ``encode`` gives them with ``begins``.

        ``tokenizers`` uses as many threads as TOKENIZERS_PARALLELISM and RAYON_NUM_THREADS allow.
        """
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [one.ids for one in encoded]

    def encode(self, text: str, *, begins: bool) -> list[int]:
        """Return the ids of `text`. The spelling of a special token in it is encoded as text.

        Args:
            text: any text that UTF-8 can hold.
            begins: whether the text is the first one. Some tokenizers put a space before it.
        """
        backend = self._backend if begins else self._continuing
        return backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def require_sha256(self, expected: str, *, field: str, owner: str) -> None:
        """Raise ConfigError unless this is the tokenizer that `owner` was made with."""
        require_same_tokenizer(self, expected, field=field, owner=owner, kind=TOKENIZER_FILE)

    def save(self, folder: Path) -> None:
        """Copy the tokenizer's files into ``folder/tokenizer``, tokenizer.json last."""
        target = folder / HF_FOLDER
        target.mkdir(exist_ok=True)
        for name in reversed(_FILES):
            path = self.path if name == TOKENIZER_FILE else self.path.with_name(name)
            if name == CONFIG_FILE and self._config_changed:
                content = _written(self.config)
            elif path == self.path:
                content = self._bytes
            elif path.is_file():
                content = path.read_bytes()
            else:
                continue
            with whole_file(target / name) as file:
                file.write(content)

    def write_hf(
        self,
        folder: Path,
        *,
        max_length_tokens: int,
        add_bos: bool,
        chat_template: str | None = None,
        eos_token: str | None = None,
    ) -> None:
        """Write the files of ``TextTokenizer.write_hf``, with the folder's own settings."""
        if eos_token is not None and eos_token not in self.specials:
            rule = f"is not a special token of {self.path}"
            raise ConfigError("eos_token", eos_token, rule, "Give one of its special tokens")
        if add_bos and not self.bos_token:
            rule = f"needs a bos_token, but {self.path.parent} names none"
            raise ConfigError("add_bos", True, rule, "Give false")
        dropped = ("auto_map", "chat_template", "tokenizer_file", "name_or_path")
        config = {key: value for key, value in self.config.items() if key not in dropped}
        if eos_token is not None:
            config["eos_token"] = eos_token
        if not config.get("pad_token") and self.pad_id is not None:
            config["pad_token"] = self._backend.id_to_token(self.pad_id)
        step = begin_with(self.bos_token, self.bos_id if add_bos else None)
        tokenizer = {**self.content, "post_processor": json.loads(step.__getstate__())}
        write_hf_files(
            folder,
            json.dumps(tokenizer, indent=2, ensure_ascii=False),
            config,
            max_length_tokens=max_length_tokens,
            add_bos=add_bos,
            chat_template=chat_template,
        )
        if (model := self.path.with_name(SENTENCEPIECE_FILE)).is_file():
            (folder / SENTENCEPIECE_FILE).write_bytes(model.read_bytes())

    def _require_own_ids(self) -> None:
        """Raise ConfigError if an added token has another id than its file says.

        ``tokenizers``, and so transformers, counts on where the vocabulary ends. It does not tell.
        """
        for token in self.content.get("added_tokens", []):
            if (given := self._vocabulary.get(token["content"])) != token["id"]:
                rule = (
                    f"says that {token['content']} has the id {token['id']}, but tokenizers and "
                    f"transformers give it {given}"
                )
                remedy = "Number the added tokens from the end of the vocabulary on, without gaps"
                raise ConfigError(self._field, str(self.path), rule, remedy)

    def _special_tokens(self) -> Mapping[str, SpecialToken]:
        found = {token: SpecialToken(id=self._vocabulary[token]) for token in sorted(self._named)}
        for token in self.content.get("added_tokens", []):
            found[token["content"]] = SpecialToken(
                id=token["id"],
                lstrip=token.get("lstrip", False),
                rstrip=token.get("rstrip", False),
                read_from_text=not self._is_special(token),
            )
        return found

    def _id(self, name: str) -> int | None:
        token = _spelling(self.config.get(name))
        return None if token is None else self._vocabulary[token]

    @cached_property
    def _named(self) -> set[str]:
        """The tokens named bos, eos, unk or pad."""
        return {token for name in _NAMES if (token := _spelling(self.config.get(name)))}

    def _is_special(self, token: Token) -> bool:
        named = self._named | self._marked_by_config
        return token.get("special", False) or token["content"] in named

    @cached_property
    def _marked_by_config(self) -> set[str]:
        """The tokens that tokenizer_config.json marks special, which transformers obeys."""
        decoder = cast(dict[str, Token], self.config.get("added_tokens_decoder") or {})
        return {token["content"] for token in decoder.values() if token.get("special", False)}

    @cached_property
    def _continuing(self) -> "Tokenizer":
        """The ``tokenizers.Tokenizer`` that puts no space before a text."""
        value = copy.deepcopy(self.content)
        value["normalizer"] = _without_prepend(value.get("normalizer"))
        for step in steps_of(value.get("pre_tokenizer"), "pretokenizers"):
            if step["type"] == "Metaspace":
                step.pop("add_prefix_space", None)
                step["prepend_scheme"] = "never"
            elif step["type"] == "ByteLevel":
                step["add_prefix_space"] = False
        return self._backend if value == self.content else self._make(value)

    def _make(self, value: TokenizerJson) -> "Tokenizer":
        """Return the ``tokenizers.Tokenizer`` that encodes a special token's spelling as text."""
        from tokenizers import Tokenizer

        added = [
            {**token, "special": self._is_special(token)} for token in value.get("added_tokens", [])
        ]
        plain = {"truncation": None, "padding": None, "added_tokens": added}
        try:
            tokenizer = Tokenizer.from_str(json.dumps({**value, **plain}))
        except Exception as error:  # the library raises no narrower type
            rule = f"is not a tokenizer ({one_line(error)})"
            raise ConfigError(self._field, str(self.path), rule, _REMEDY) from None
        tokenizer.encode_special_tokens = True
        return tokenizer


def added_tokens(folder: Path, *, field: str) -> list[str]:
    """Return the tokens that a folder's files add to a vocabulary, special or not.

    Raises:
        ConfigError: a file is not a JSON object.
    """
    tokens = [
        token["content"]
        for token in read_content(folder / TOKENIZER_FILE, field).get("added_tokens", [])
    ]
    decoder = _read_json(folder / CONFIG_FILE, field).get("added_tokens_decoder", {})
    tokens += [token["content"] for token in cast(dict[str, Token], decoder).values()]
    return [*tokens, *_read_json(folder / _ADDED_FILE, field)]


def _written(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode()


def read_content(path: Path, field: str) -> TokenizerJson:
    """Return the content of a tokenizer.json. ``tokenizers`` checks the types of its values."""
    return cast(TokenizerJson, _read_json(path, field))


def _read_json(path: Path, field: str) -> dict[str, object]:
    """Return the JSON object in a file. Return an empty one if there is no file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(field, str(path), f"is not JSON ({one_line(error)})", _REMEDY) from None
    if not isinstance(value, dict):
        raise ConfigError(field, str(path), "is not a JSON object", _REMEDY)
    return value


def _spelling(token: object) -> str | None:
    """Return the text of a token. The files give it alone, or in an object."""
    spelt = token.get("content") if isinstance(token, dict) else token
    return str(spelt) if spelt else None


def steps_of(
    value: TextStep | None, key: Literal["normalizers", "pretokenizers"]
) -> list[TextStep]:
    """Return all steps of a part of tokenizer.json, at any depth. The caller may edit them."""
    if value is None:
        return []
    if value["type"] == "Sequence":
        return [step for part in value.get(key, []) for step in steps_of(part, key)]
    return [value]


def _without_prepend(normalizer: TextStep | None) -> TextStep | None:
    """Return a normaliser without the step that puts a space before every text."""
    if normalizer is None or normalizer["type"] == "Prepend":
        return None
    if normalizer["type"] == "Sequence":
        parts = [_without_prepend(part) for part in normalizer.get("normalizers", [])]
        changed = normalizer.copy()
        changed["normalizers"] = [part for part in parts if part is not None]
        return changed
    return normalizer
