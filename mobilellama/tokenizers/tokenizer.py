"""Tokenizers: what every part may ask of one, and the sentencepiece kind.

``open_tokenizer`` opens what a user names. ``Tokenizer`` is a sentencepiece model, LLaMA's kind;
``hf_tokenizer.HfTokenizer`` is any other that transformers reads. Both are ``TextTokenizer``.

Nothing here encodes corpora; that is ``tokenize/encoder.py``.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb

from mobilellama.config import ConfigError
from mobilellama.files.atomic import whole_file
from mobilellama.tokenizers.hf_files import TOKENIZER_FILE, is_written_by_us, write_hf_files

log = logging.getLogger(__name__)

SENTENCEPIECE_FILE = "tokenizer.model"
"""The name of a sentencepiece model in a dataset, a run or an export."""
HF_FOLDER = "tokenizer"
"""The name of the folder of any other tokenizer's files in a dataset or a run."""

_SENTENCEPIECE = "Give the path of a sentencepiece .model file"
_ANY_KIND = (
    f"Give a sentencepiece .model file, a {TOKENIZER_FILE}, or a folder on this machine that holds "
    "one of them"
)

# Of a model that was trained; an index alone, too, whose files are still to be fetched.
_WEIGHTS = (
    "*.safetensors", "*.bin", "*.gguf", "*.pth", "*.pt", "*.ckpt", "*.h5", "*.msgpack", "*.onnx",
    "*.index.json", "adapter_config.json",
)  # fmt: skip

# ModelProto.SentencePiece.Type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5


class WrongIdsError(ConfigError):
    """A tokenizer.json that gives other ids than the model that it was made from."""


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


def open_tokenizer(
    path: str | Path, *, field: str = "tokenizer", as_is: bool = False, trained: bool = False
) -> TextTokenizer:
    """Open a tokenizer of either kind, with the ids that its model was trained with.

    A tokenizer.json that transformers 5 made of a sentencepiece model gives other ids. Alone, it
    is corrected, which is logged; beside weights, which may have learnt either, it is refused.
    What a dataset, a run or an export of ours holds was trained with, and stays as it is.

    Args:
        path: a sentencepiece .model file, a tokenizer.json, a Hugging Face folder, or a
            dataset or run folder. Of a folder with both kinds of file, tokenizer.model is
            taken where tokenizer.json adds no token to it.
        field: the field that names it, for errors.
        as_is: whether the ids of tokenizer.json are wanted as they are.
        trained: whether a model was trained with it, though the folder may hold no weights.

    Raises:
        ConfigError: there is no tokenizer, or it cannot be read.
        WrongIdsError: it gives other ids than its model does.
    """
    from mobilellama.tokenizers.conversion import find_fault
    from mobilellama.tokenizers.hf_tokenizer import HfTokenizer

    opened, beside = _open(Path(path), field)
    if isinstance(opened, HfTokenizer):
        file, model = opened, beside
    else:
        file, model = beside, opened
    if not isinstance(file, HfTokenizer) or _is_trained_with(file):
        return opened
    fault = find_fault(file, model if isinstance(model, Tokenizer) else None)
    if fault is None:
        return opened
    if as_is:
        return file
    weights = _weights_beside(file.path) or ("its model" if trained else None)
    if weights is not None or (fault.corrected is None and opened is file):
        raise WrongIdsError(field, str(path), *fault.refusal(weights))
    log.warning("%s gives %s as its model does: corrected", file.path, fault.ids)
    if fault.corrected is None or opened is not file:
        return opened
    return HfTokenizer(file.path, field=field, content=fault.corrected)


def open_known_tokenizer(
    path: str | Path, sha256: str, *, field: str = "tokenizer", owner: str
) -> TextTokenizer:
    """Open the tokenizer that something was made with, whichever ids of its folder those are.

    Args:
        path: as ``open_tokenizer`` takes it.
        sha256: of the tokenizer.
        field: the field that names it, for errors.
        owner: what was made with it.

    Raises:
        ConfigError: there is no tokenizer, or it is another.
    """
    from mobilellama.tokenizers.conversion import find_fault
    from mobilellama.tokenizers.hf_tokenizer import HfTokenizer

    opened, beside = _open(Path(path), field)
    if beside is not None and beside.sha256 == sha256:
        return beside
    if isinstance(opened, HfTokenizer) and opened.sha256 != sha256:
        fault = find_fault(opened, beside if isinstance(beside, Tokenizer) else None)
        if fault is not None and fault.corrected is not None:
            corrected = HfTokenizer(opened.path, field=field, content=fault.corrected)
            if corrected.sha256 == sha256:
                return corrected
    opened.require_sha256(sha256, field=field, owner=owner)
    return opened


def _open(found: Path, field: str) -> tuple[TextTokenizer, TextTokenizer | None]:
    """Return the tokenizer that a path stands for, and the other kind's in the same folder."""
    from mobilellama.tokenizers.hf_tokenizer import HfTokenizer

    if not found.is_dir():
        if found.suffix == ".json":
            return HfTokenizer(found, field=field), model_beside(found.parent, field)
        if not found.is_file():
            raise ConfigError(field, str(found), "is neither a file nor a folder", _ANY_KIND)
        return Tokenizer(found, field=field, remedy=_ANY_KIND), None
    if (found / HF_FOLDER / TOKENIZER_FILE).is_file():
        return HfTokenizer(found / HF_FOLDER, field=field), None
    has_json = (found / TOKENIZER_FILE).is_file()
    if (found / SENTENCEPIECE_FILE).is_file():
        model = _model_of(found, field, has_json)
        if model is not None:
            return model, _file_beside(found, field) if has_json else None
    if has_json:
        return HfTokenizer(found, field=field), model_beside(found, field)
    rule = f"holds neither {SENTENCEPIECE_FILE} nor {TOKENIZER_FILE}"
    raise ConfigError(field, str(found), rule, _ANY_KIND)


def _model_of(folder: Path, field: str, has_json: bool) -> "Tokenizer | None":
    """Return a folder's sentencepiece model where that alone gives the folder's ids."""
    from mobilellama.tokenizers.fast_tokenizer import special_pieces
    from mobilellama.tokenizers.hf_tokenizer import added_tokens

    try:
        tokenizer = Tokenizer(folder / SENTENCEPIECE_FILE, field=field)
    except ConfigError:
        if has_json:  # some folders give another kind of file this name
            return None
        raise
    added = sorted(set(added_tokens(folder, field=field)) - {*special_pieces(tokenizer)})
    if not added and (not has_json or _is_conversion(folder / TOKENIZER_FILE, tokenizer)):
        return tokenizer
    if not has_json:
        rule = f"adds {', '.join(added[:4])} to {SENTENCEPIECE_FILE}, without {TOKENIZER_FILE}"
        remedy = f"Save it with transformers, which writes {TOKENIZER_FILE}"
        raise ConfigError(field, str(folder), rule, remedy)
    return None


def _file_beside(folder: Path, field: str) -> TextTokenizer | None:
    """Return the tokenizer.json beside a sentencepiece model; None where it cannot be read."""
    from mobilellama.tokenizers.hf_tokenizer import HfTokenizer

    try:
        return HfTokenizer(folder, field=field)
    except ConfigError:
        return None


def model_beside(folder: str | Path, field: str) -> "Tokenizer | None":
    """Return the sentencepiece model of a folder; None where there is none."""
    try:
        return Tokenizer(Path(folder) / SENTENCEPIECE_FILE, field=field)
    except ConfigError:
        return None


def _is_trained_with(tokenizer: Any) -> bool:
    """Whether a tokenizer.json is a dataset's or a run's, or of an export of ours."""
    folder = tokenizer.path.parent
    ours = ("dataset.json", "plan.json", "attempts", "checkpoints")
    in_ours = folder.name == HF_FOLDER and any((folder.parent / name).exists() for name in ours)
    return in_ours or is_written_by_us(tokenizer.config)


def _weights_beside(path: Path) -> str | None:
    """Return the name of a file of weights in a tokenizer's folder; None where there is none."""
    names = (found.name for pattern in _WEIGHTS for found in sorted(path.parent.glob(pattern)))
    return next((name for name in names if not name.startswith("training_args")), None)


def _is_conversion(path: Path, tokenizer: "Tokenizer") -> bool:
    """Whether a tokenizer.json has the model's pieces, and we could write it exactly."""
    from mobilellama.tokenizers.fast_tokenizer import broken_rules

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

    def __init__(
        self, path: str | Path, *, field: str = "tokenizer", remedy: str = _SENTENCEPIECE
    ) -> None:
        self.path = Path(path)
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
        """Write tokenizer.model, and the files that transformers 4 and 5 load as it, id for id.

        Padding is <unk>: see ``pad_id``.

        Args:
            folder: where to; it exists.
            max_length_tokens: the model's longest sequence.
            add_bos: whether encoding puts <s> first.
            chat_template: Jinja of a chat model; None for a base model.
            eos_token: what ends a text or an answer; None for </s>.

        Raises:
            ConfigError: ``tokenizers`` cannot do what the model does, or `eos_token` is none of
                its special pieces.
        """
        from mobilellama.tokenizers.fast_tokenizer import fast_tokenizer, special_pieces

        *_, eos = specials = special_pieces(self)
        if eos_token is not None and eos_token not in specials:
            rule = f"is no special token of {self.path}"
            raise ConfigError("eos_token", eos_token, rule, f"Take {eos}")
        fast = fast_tokenizer(self, add_bos=add_bos)
        unk, bos, eos = specials
        config = {
            "bos_token": bos,
            "eos_token": eos_token or eos,
            "unk_token": unk,
            "pad_token": unk,
            "legacy": True,
            "sp_model_kwargs": {},
        }
        write_hf_files(
            folder,
            fast.to_str(pretty=True),
            config,
            max_length_tokens=max_length_tokens,
            add_bos=add_bos,
            chat_template=chat_template,
        )
        (folder / SENTENCEPIECE_FILE).write_bytes(self.model_bytes)
