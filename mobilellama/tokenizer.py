"""Tokenizers: what every part may ask of one, the sentencepiece kind, and its tokenizer.json.

``open_tokenizer`` opens what a user names. ``Tokenizer`` is a sentencepiece model, LLaMA's kind;
``hf_tokenizer.HfTokenizer`` is any other that transformers reads. Both are ``TextTokenizer``.

Nothing here encodes corpora; that is ``tokenize/encoder.py``.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb

from mobilellama.config import ConfigError
from mobilellama.files import whole_file

SENTENCEPIECE_FILE = "tokenizer.model"
"""The name of a sentencepiece model in a dataset, a run or an export."""
HF_FOLDER = "tokenizer"
"""The name of the folder of any other tokenizer's files in a dataset or a run."""
CHAT_TEMPLATE_FILE = "chat_template.jinja"

BPE = 2  # TrainerSpec.ModelType.BPE
# ModelProto.SentencePiece.Type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
SPACE = "▁"  # sentencepiece's stand-in for a space, U+2581


@dataclass(frozen=True, kw_only=True)
class SpecialToken:
    """One special token of a tokenizer."""

    id: int
    lstrip: bool = False
    """Whether transformers' encoding drops white space before it."""
    rstrip: bool = False
    """Whether transformers' encoding drops white space after it."""
    read_from_text: bool = False
    """Whether ``encode`` gives its id for a text that spells it."""


class TextTokenizer(Protocol):
    """What the stages ask of a tokenizer of any kind."""

    @property
    def path(self) -> Path:
        """The file that decides the ids."""
        ...

    @property
    def sha256(self) -> str:
        """sha256 of that file."""
        ...

    @property
    def vocab_size(self) -> int:
        """The highest id plus one: what an embedding needs at least."""
        ...

    @property
    def bos_id(self) -> int | None:
        """Id that begins a text; None where there is none."""
        ...

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text; None where there is none."""
        ...

    @property
    def pad_id(self) -> int | None:
        """Id to pad with; None where there is none."""
        ...

    @property
    def bos_token(self) -> str:
        """How the begin token is spelt; empty where there is none."""
        ...

    @property
    def specials(self) -> Mapping[str, SpecialToken]:
        """Every special token by its spelling."""
        ...

    @property
    def begins_after_special(self) -> bool:
        """Whether a text after a special token is encoded as at the start, not as going on."""
        ...

    def encode(self, text: str, *, begins: bool) -> list[int]:
        """Return the ids of `text`, in which no special token is looked for.

        Args:
            text: any text that UTF-8 can hold.
            begins: whether it stands at the start, where some tokenizers put a space before
                it; else it goes on from the text before it.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special ids give nothing."""
        ...

    def require_sha256(self, expected: str, *, field: str, owner: str) -> None:
        """Raise ConfigError unless this is the tokenizer that `owner` was made with."""
        ...

    def save(self, folder: Path) -> None:
        """Put the tokenizer's own files into a dataset's or run's folder, which exists."""
        ...

    def write_hf(
        self,
        folder: Path,
        *,
        max_length_tokens: int,
        add_bos: bool,
        chat_template: str | None = None,
        eos_token: str | None = None,
    ) -> None:
        """Write the files that transformers 4 and 5 load as this tokenizer.

        Args:
            folder: where to; it exists.
            max_length_tokens: the model's longest sequence.
            add_bos: whether encoding puts the begin token first.
            chat_template: Jinja of a chat model; None for a base model.
            eos_token: what ends a text or an answer; None for the tokenizer's own.
        """
        ...


def open_tokenizer(path: str | Path, *, field: str = "tokenizer") -> TextTokenizer:
    """Open a tokenizer of either kind.

    Args:
        path: a sentencepiece .model file, a tokenizer.json, a Hugging Face folder, or a
            dataset or run folder. Of a folder with both kinds of file, tokenizer.model is
            taken where tokenizer.json adds no token to it: transformers' own conversions of
            LLaMA's model mis-tokenise runs of spaces.
        field: the field that names it, for errors.

    Raises:
        ConfigError: there is no tokenizer, or it cannot be read.
    """
    from mobilellama.hf_tokenizer import TOKENIZER_FILE, HfTokenizer, added_tokens

    found = Path(path)
    if not found.is_dir():
        if found.suffix == ".json":
            return HfTokenizer(found, field=field)
        return Tokenizer(found, field=field)
    if (found / HF_FOLDER / TOKENIZER_FILE).is_file():
        return HfTokenizer(found / HF_FOLDER, field=field)
    has_json = (found / TOKENIZER_FILE).is_file()
    if (found / SENTENCEPIECE_FILE).is_file():
        try:
            tokenizer = Tokenizer(found / SENTENCEPIECE_FILE, field=field)
        except ConfigError:
            if has_json:  # some folders give another kind of file this name
                return HfTokenizer(found, field=field)
            raise
        added = sorted(set(added_tokens(found, field=field)) - _hf_specials(tokenizer))
        if not added and (not has_json or _is_conversion(found / TOKENIZER_FILE, tokenizer)):
            return tokenizer
        if not has_json:
            rule = f"adds {', '.join(added[:4])} to {SENTENCEPIECE_FILE}, without {TOKENIZER_FILE}"
            remedy = f"Save it with transformers, which writes {TOKENIZER_FILE}"
            raise ConfigError(field, str(path), rule, remedy)
    if has_json:
        return HfTokenizer(found, field=field)
    rule = f"holds neither {SENTENCEPIECE_FILE} nor {TOKENIZER_FILE}"
    raise ConfigError(field, str(path), rule, "Give a tokenizer's file or folder")


def _is_conversion(path: Path, tokenizer: "Tokenizer") -> bool:
    """Whether a tokenizer.json has the model's pieces, and we could write it exactly."""
    vocabulary = json.loads(path.read_bytes()).get("model", {}).get("vocab")
    pieces = {piece.piece: i for i, piece in enumerate(tokenizer.proto.pieces)}
    return vocabulary == pieces and not broken_rules(tokenizer)


def require_same_tokenizer(
    tokenizer: TextTokenizer, expected: str, *, field: str, owner: str, kind: str
) -> None:
    """Raise ConfigError unless `tokenizer`, a `kind`, has the sha256 `owner` was made with."""
    if tokenizer.sha256 != expected:
        raise ConfigError(
            field,
            str(tokenizer.path),
            f"has sha256 {tokenizer.sha256[:12]}, but {owner} was made with {expected[:12]}",
            f"Give the same {kind}",
        )


class Tokenizer:
    """A sentencepiece BPE model with LLaMA's special ids: <unk> 0, <s> 1, </s> 2.

    Raises:
        ConfigError: the file is missing, is no sentencepiece model, or has no </s>.
    """

    def __init__(self, path: str | Path, *, field: str = "tokenizer") -> None:
        self.path = Path(path)
        remedy = "Give the path of a sentencepiece .model file"
        if not self.path.is_file():
            raise ConfigError(field, str(path), "is not a file", remedy)
        self.model_bytes = self.path.read_bytes()
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=self.model_bytes)
        except (RuntimeError, ValueError) as error:
            rule = f"is not a sentencepiece model ({error})"
            raise ConfigError(field, str(path), rule, remedy) from None
        if self.processor.eos_id() < 0:
            raise ConfigError(field, str(path), "has no </s> piece", "Train it with one")

    @property
    def sha256(self) -> str:
        """sha256 of the model file."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return hashlib.sha256(self.model_bytes).hexdigest()

    @cached_property
    def proto(self) -> Any:
        """The parsed ModelProto: pieces, scores, trainer and normaliser settings."""
        proto = model_pb.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
        proto.ParseFromString(self.model_bytes)
        return proto

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return self.processor.vocab_size()

    @property
    def bos_id(self) -> int:
        """Id of <s>."""
        return self.processor.bos_id()

    @property
    def eos_id(self) -> int:
        """Id of </s>, which ends every document."""
        return self.processor.eos_id()

    @property
    def unk_id(self) -> int:
        """Id of <unk>."""
        return self.processor.unk_id()

    @property
    def pad_id(self) -> int:
        """Id of <unk>, which no text encodes to: a masked </s> would never be learnt."""
        return self.unk_id

    @property
    def bos_token(self) -> str:
        """The spelling of <s>; empty where there is none."""
        return self.processor.id_to_piece(self.bos_id) if self.bos_id >= 0 else ""

    @property
    def specials(self) -> Mapping[str, SpecialToken]:
        """Control pieces and <unk>, and user-defined pieces, which alone are read from text."""
        return self._specials

    @cached_property
    def _specials(self) -> Mapping[str, SpecialToken]:
        return {
            piece.piece: SpecialToken(id=i, read_from_text=piece.type == USER_DEFINED)
            for i, piece in enumerate(self.proto.pieces)
            if piece.type in (UNKNOWN, CONTROL, USER_DEFINED)
        }

    @property
    def begins_after_special(self) -> bool:
        """True: as the legacy LLaMA tokenizer, tokenizer.json and llama.cpp have it."""
        return True

    @cached_property
    def _continuing(self) -> sentencepiece.SentencePieceProcessor:
        """The processor that puts no space before a text."""
        proto = model_pb.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
        proto.CopyFrom(self.proto)
        if proto.normalizer_spec.remove_extra_whitespaces:
            raise ConfigError(
                "tokenizer",
                str(self.path),
                "removes spaces, so that no text can go on from another",
                "Train it with 'mobilellama tokenize train-tokenizer'",
            )
        proto.normalizer_spec.add_dummy_prefix = False
        return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def encode(self, text: str, *, begins: bool) -> list[int]:
        """Return the ids of `text`, in which no special token is looked for.

        Args:
            text: any text that UTF-8 can hold.
            begins: whether sentencepiece's dummy prefix, a space, is put before it.
        """
        return (self.processor if begins else self._continuing).encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special ids give nothing."""
        return self.processor.decode(list(ids))

    def require_sha256(self, expected: str, *, field: str, owner: str) -> None:
        """Raise ConfigError unless this is the tokenizer that `owner` was made with."""
        kind = "sentencepiece model"
        require_same_tokenizer(self, expected, field=field, owner=owner, kind=kind)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.model`` into a folder, whole or not at all."""
        with whole_file(folder / SENTENCEPIECE_FILE) as file:
            file.write(self.model_bytes)

    def write_hf(
        self,
        folder: Path,
        *,
        max_length_tokens: int,
        add_bos: bool,
        chat_template: str | None = None,
        eos_token: str | None = None,
    ) -> None:
        """Write an exact tokenizer.json and its companions; see ``write_hf_tokenizer``."""
        write_hf_tokenizer(
            self,
            folder,
            max_length_tokens=max_length_tokens,
            add_bos=add_bos,
            chat_template=chat_template,
            eos_token=eos_token,
        )


def fast_tokenizer(tokenizer: Tokenizer, *, add_bos: bool = True) -> Any:
    """Build the ``tokenizers.Tokenizer`` that encodes exactly as sentencepiece does.

    transformers' own conversion orders merges by id and ignores scores, which mis-tokenises
    LLaMA's runs of spaces; here merges are ordered by score, then by the longer left part.

    Args:
        tokenizer: the sentencepiece model.
        add_bos: whether encoding puts <s> first, where special tokens are asked for.

    Raises:
        ConfigError: sentencepiece does with this model what ``tokenizers`` cannot do.
    """
    from tokenizers import AddedToken, decoders, models, normalizers, processors
    from tokenizers import Tokenizer as FastTokenizer

    _require_exact(tokenizer)
    pieces, normalizer = tokenizer.proto.pieces, tokenizer.proto.normalizer_spec
    unk, bos, eos = _special_pieces(tokenizer)
    model = models.BPE(
        {piece.piece: i for i, piece in enumerate(pieces)},
        _merges(pieces),
        unk_token=unk,
        fuse_unk=True,
        byte_fallback=True,
    )
    fast = FastTokenizer(model)
    dummy_prefix = normalizer.add_dummy_prefix
    fast.normalizer = normalizers.Sequence(
        ([normalizers.Prepend(SPACE)] if dummy_prefix else []) + [normalizers.Replace(" ", SPACE)]
    )
    fast.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if dummy_prefix else [])
    )
    fast.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in (unk, bos, eos)]
    )
    if add_bos:
        fast.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, tokenizer.bos_id)],
        )
    return fast


def broken_rules(tokenizer: Tokenizer) -> list[str]:
    """Return what keeps ``fast_tokenizer`` from doing all that sentencepiece does."""
    trainer, normalizer = tokenizer.proto.trainer_spec, tokenizer.proto.normalizer_spec
    rules = {
        "be a BPE model": trainer.model_type == BPE,
        "have byte fallback": trainer.byte_fallback,
        "have the identity normaliser": not normalizer.precompiled_charsmap,
        "keep runs of spaces": not normalizer.remove_extra_whitespaces,
        "write spaces as U+2581": normalizer.escape_whitespaces,
        "mark words at their beginning": not trainer.treat_whitespace_as_suffix,
        "have no user-defined or unused pieces": all(
            piece.type not in (USER_DEFINED, UNUSED) for piece in tokenizer.proto.pieces
        ),
        "have <unk>, <s> and </s>": min(tokenizer.unk_id, tokenizer.bos_id) >= 0,
    }
    return [rule for rule, holds in rules.items() if not holds]


def _require_exact(tokenizer: Tokenizer) -> None:
    if broken := broken_rules(tokenizer):
        raise ConfigError(
            "tokenizer",
            str(tokenizer.path),
            f"must {' and '.join(broken)} to be exported exactly",
            "Train it with 'mobilellama tokenize train-tokenizer'",
        )


def _merges(pieces: Any) -> list[tuple[str, str]]:
    """Return every (left, right) that makes a piece, in the order in which they are merged."""
    names = {piece.piece for piece in pieces}
    merges = []
    for piece in pieces:
        if piece.type == NORMAL:
            for cut in range(1, len(piece.piece)):
                left, right = piece.piece[:cut], piece.piece[cut:]
                if left in names and right in names:
                    merges.append((piece.score, len(left), len(right), left, right))
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    return [merge[3:] for merge in merges]


def _special_pieces(tokenizer: Tokenizer) -> tuple[str, str, str]:
    """Return the spelling of unk, bos and eos."""
    pieces = tokenizer.proto.pieces
    return (
        pieces[tokenizer.unk_id].piece,
        pieces[tokenizer.bos_id].piece,
        pieces[tokenizer.eos_id].piece,
    )


def _hf_specials(tokenizer: Tokenizer) -> set[str]:
    """Return the tokens that ``fast_tokenizer`` makes special."""
    ids = (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id)
    return {tokenizer.processor.id_to_piece(i) for i in ids if i >= 0}


def write_hf_tokenizer(
    tokenizer: Tokenizer,
    folder: Path,
    *,
    max_length_tokens: int,
    add_bos: bool = True,
    chat_template: str | None = None,
    eos_token: str | None = None,
) -> None:
    """Write tokenizer.json, tokenizer.model and tokenizer_config.json for transformers 4 and 5.

    The class name PreTrainedTokenizerFast is what both versions load as it stands:
    LlamaTokenizer rebuilds the merges wrongly in version 5, and version 4 does not know the
    name that version 5 would write. Padding is <unk>, which no text encodes to: with </s> a
    trainer that masks padding would never learn to stop.

    Args:
        tokenizer: the sentencepiece model.
        folder: where to; it exists.
        max_length_tokens: the model's longest sequence.
        add_bos: whether encoding puts <s> first.
        chat_template: Jinja of a chat model; None for a base model.
        eos_token: what ends a text or an answer; None for </s>.

    Raises:
        ConfigError: ``tokenizers`` cannot do what the model does, or `eos_token` is none of
            its special pieces.
    """
    unk, bos, eos = _special_pieces(tokenizer)
    if eos_token is not None and eos_token not in _hf_specials(tokenizer):
        rule = f"is no special token of {tokenizer.path}"
        raise ConfigError("eos_token", eos_token, rule, f"Take {eos}")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos_token or eos,
        "unk_token": unk,
        "pad_token": unk,
        "add_bos_token": add_bos,
        "add_eos_token": False,
        "legacy": True,
        # Without it version 4 also gives token_type_ids, which a Llama's generate() refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length_tokens,
        "clean_up_tokenization_spaces": False,
        "sp_model_kwargs": {},
    }
    fast = fast_tokenizer(tokenizer, add_bos=add_bos)
    (folder / "tokenizer.json").write_text(fast.to_str(pretty=True), encoding="utf-8")
    (folder / SENTENCEPIECE_FILE).write_bytes(tokenizer.model_bytes)
    write_config(folder, config, chat_template)


def write_config(folder: Path, config: dict[str, Any], chat_template: str | None) -> None:
    """Write tokenizer_config.json, with the chat template in it and in a file of its own.

    transformers reads the file; versions before 4.43, and readers that go by the key, the key.
    """
    if chat_template is not None:
        config = config | {"chat_template": chat_template}
        (folder / CHAT_TEMPLATE_FILE).write_text(chat_template, encoding="utf-8")
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
