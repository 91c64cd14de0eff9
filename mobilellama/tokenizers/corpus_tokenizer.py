"""Open the tokenizer of a corpus: the one that ``tokenize run`` encodes documents with.

1. If a folder has a sentencepiece model, it is used, although tokenizer.json lies beside it. Both
   must have the same pieces.
2. Otherwise tokenizer.json is used. Every character must have tokens, so that no text is lost.
   ``document_end.py`` finds the token that ends documents.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellama.config import ConfigError
from mobilellama.tokenizers.document_end import find_document_end
from mobilellama.tokenizers.hf_files import TOKENIZER_FILE
from mobilellama.tokenizers.hf_tokenizer import (
    HfTokenizer,
    added_tokens,
    read_content,
    steps_of,
)
from mobilellama.tokenizers.opening import model_beside, open_tokenizer
from mobilellama.tokenizers.same_ids import PROBES
from mobilellama.tokenizers.sentencepiece_model import NORMAL
from mobilellama.tokenizers.text_tokenizer import SENTENCEPIECE_FILE
from mobilellama.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mobilellama.tokenizers.tokenizer_json import MergingModel, TokenizerJson

log = logging.getLogger(__name__)

CorpusTokenizer = Tokenizer | HfTokenizer

_ANY_KIND = (
    f"Give a sentencepiece .model file, a {TOKENIZER_FILE}, or a folder or a model on the Hub that "
    "holds one of them"
)
_MOST_NAMED = 4  # tokens in one message
_SHOWN_CHARACTERS = 40


def open_corpus_tokenizer(
    path: str | Path,
    *,
    field: str = "tokenizer",
    eos_token: str | None = None,
    as_is: bool = False,
    trained: bool = False,
) -> CorpusTokenizer:
    """Open a sentencepiece model or a tokenizer.json, with the token that ends documents.

    Args:
        path: a .model file, a tokenizer.json, or a folder with one of them.
        field: the field that names it, for errors.
        eos_token: the spelling of the token that ends documents. None: </s> of a sentencepiece
            model; of a tokenizer.json the one that ``find_document_end`` finds.
        as_is: take the ids of tokenizer.json unchanged (see ``open_tokenizer``).
        trained: treat the folder as one with weights (see ``open_tokenizer``).

    Raises:
        ConfigError: there is no tokenizer, it cannot be read or would lose text, or no token is
            known to end documents.
        WrongIdsError: tokenizer.json gives other ids than the model that it was made from.
    """
    given = Path(path)
    if not given.exists():
        raise ConfigError(field, str(path), "is neither a file nor a folder", _ANY_KIND)
    model = None
    if not (as_is or given.suffix == ".json"):
        model = _sentencepiece_of(given, field)
    opened = model or open_tokenizer(path, field=field, as_is=as_is, trained=trained)
    if isinstance(opened, Tokenizer):
        _require_own_end(opened, eos_token)
        return opened
    assert isinstance(opened, HfTokenizer)
    if (why := why_lossy(opened.content)) is not None:
        remedy = "Give a byte-level tokenizer, as GPT-2's, Llama 3's and Qwen's, or one with bytes"
        raise ConfigError(field, str(opened.path), why, remedy)
    ended = opened.ended_by(find_document_end(opened, eos_token))
    _tell(ended, opened)
    return ended


def _sentencepiece_of(given: Path, field: str) -> Tokenizer | None:
    """Return the sentencepiece model of a file or folder. None: it has tokenizer.json alone."""
    if not given.is_dir():
        return Tokenizer(given, field=field, remedy=_ANY_KIND)
    has_json = (given / TOKENIZER_FILE).is_file()
    if not (given / SENTENCEPIECE_FILE).is_file():
        return None
    model = model_beside(given, field)
    if model is None and has_json:
        log.info("%s is no sentencepiece model: %s is used", SENTENCEPIECE_FILE, TOKENIZER_FILE)
        return None
    if model is None:
        return Tokenizer(given / SENTENCEPIECE_FILE, field=field, remedy=_ANY_KIND)
    if has_json:
        _require_same_pieces(given, model, field)
        log.info("%s is used, not %s beside it", given / SENTENCEPIECE_FILE, TOKENIZER_FILE)
    pieces = {piece.piece for piece in model.proto.pieces}
    if added := sorted(set(added_tokens(given, field=field)) - pieces):
        more = ", ..." if added[_MOST_NAMED:] else ""
        log.warning(
            "%s adds %s%s to %s: text is tokenised without them",
            given, ", ".join(added[:_MOST_NAMED]), more, SENTENCEPIECE_FILE,
        )  # fmt: skip
    return model


def _require_same_pieces(folder: Path, model: Tokenizer, field: str) -> None:
    """Raise ConfigError if a folder's two files are two tokenizers."""
    content = read_content(folder / TOKENIZER_FILE, field)
    pieces = {token["content"] for token in content.get("added_tokens", [])}
    vocabulary = _pieces(content.get("model") or {})
    found = {piece: i for i, piece in enumerate(vocabulary)}
    for i, piece in enumerate(model.proto.pieces):
        if piece.type == NORMAL and piece.piece not in pieces and found.get(piece.piece) != i:
            rule = f"holds two tokenizers: {SENTENCEPIECE_FILE} has {piece.piece!r} as id {i}, but "
            rule += f"{TOKENIZER_FILE} has {vocabulary[i : i + 1]}"
            raise ConfigError(field, str(folder), rule, "Give the path of one of the two files")


def _require_own_end(model: Tokenizer, eos_token: str | None) -> None:
    """Raise ConfigError if the user gave another end than a sentencepiece model's own."""
    own = model.processor.id_to_piece(model.eos_id)
    if eos_token not in (None, own):
        rule = f"is not the end of {model.path}, which is a sentencepiece model"
        raise ConfigError("eos_token", eos_token, rule, f"Leave it out, or give {own}")


def why_lossy(content: "TokenizerJson") -> str | None:
    """Return why a tokenizer.json would lose characters. None: each one has tokens."""
    from tokenizers import pre_tokenizers

    part = content["model"]
    kind = part.get("type", "BPE")
    if kind not in ("BPE", "Unigram"):
        return f"is a {kind} tokenizer, which loses the characters that its vocabulary lacks"
    steps = steps_of(content.get("pre_tokenizer"), "pretokenizers")
    steps += steps_of(content.get("normalizer"), "normalizers")
    if any(step["type"] == "ByteLevel" for step in steps):
        needed = {*pre_tokenizers.ByteLevel.alphabet()}
    elif part.get("byte_fallback"):
        needed = {f"<0x{byte:02X}>" for byte in range(256)}
    else:
        return "has no tokens for bytes, so that characters that its vocabulary lacks are lost"
    if lacking := len(needed - {*_pieces(part)}):
        return f"lacks the tokens of {lacking} of the 256 bytes, so that characters are lost"
    return None


def _pieces(model: "MergingModel") -> list[str]:
    """Return the vocabulary of a tokenizer.json, without added tokens, in the order of the ids."""
    vocab = model.get("vocab") or {}
    if isinstance(vocab, list):  # of Unigram
        return [piece for piece, _ in vocab]
    return sorted(vocab, key=vocab.__getitem__)


def _tell(tokenizer: HfTokenizer, given: HfTokenizer) -> None:
    """Log how documents end, and what of a text may not be as a user expects."""
    instead = ""
    if given.eos_token not in (None, tokenizer.eos_token):
        instead = f", not with {given.eos_token}, the eos_token beside it"
    log.info(
        "%s: documents end with %s (id %d)%s",
        tokenizer.path, tokenizer.eos_token, tokenizer.eos_id, instead,
    )  # fmt: skip
    read = [token for token, special in tokenizer.specials.items() if special.read_from_text]
    if shown := [token for token in read if token.strip()]:
        more = ", ..." if shown[_MOST_NAMED:] else ""
        log.warning(
            "%s does not mark %s%s special: text that spells them gets their ids",
            tokenizer.path, ", ".join(shown[:_MOST_NAMED]), more,
        )  # fmt: skip
    for text in PROBES:
        back = tokenizer.decode(tokenizer.encode(text, begins=True))
        if back.strip(" ") != text.strip(" "):
            log.warning(
                "%s changes text: %a comes back as %a",
                tokenizer.path, text[:_SHOWN_CHARACTERS], back[:_SHOWN_CHARACTERS],
            )  # fmt: skip
            return
