"""The encoder of an audit: the library of the dataset's tokenizer, without our encoders.

- ``tokenizer.model``: sentencepiece, a document at a time.
- ``tokenizer/tokenizer.json``: ``tokenizers``, a document at a time. 'tokenize run' encodes batches
  with it by another function.
"""

from pathlib import Path

from mobilellama.config import DataError
from mobilellama.files.atomic import read_json, sha256_of_file
from mobilellama.shards.audit.comparison import Encode
from mobilellama.shards.dataset import tokenizer_file
from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenizers.hf_files import CONFIG_FILE, TOKENIZER_FILE

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")


def library_encoder(dataset: TokenDataset) -> tuple[str, Encode]:
    """Return the name of the library, and its encoder with the dataset's own file.

    Raises:
        DataError: the file is missing, or not the dataset's, or the library cannot read it.
    """
    path = tokenizer_file(dataset.folder)
    is_json = path.name == TOKENIZER_FILE
    if not path.is_file() or sha256_of_file(path) != dataset.identity.tokenizer_sha256:
        kind = TOKENIZER_FILE if is_json else "sentencepiece model"
        raise DataError(
            f"{path}: missing, or not the {kind} that the dataset was made with. "
            "Copy that one there"
        )
    return ("tokenizers", _tokenizers(path)) if is_json else ("sentencepiece", _sentencepiece(path))


def _sentencepiece(path: Path) -> Encode:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return lambda text: processor.encode(text)


def _tokenizers(path: Path) -> Encode:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.add_special_tokens(_named(path.with_name(CONFIG_FILE)))
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def _named(config: Path) -> list[str]:
    """Return the special tokens that tokenizer_config.json names, which text may not become."""
    if not config.is_file():
        return []
    try:
        values = read_json(config)
        tokens = [values.get(name) for name in _NAMED]
    except (ValueError, AttributeError):
        raise DataError(f"{config}: is damaged. Restore it from a copy") from None
    spelt = [token.get("content") if isinstance(token, dict) else token for token in tokens]
    return [token for token in spelt if isinstance(token, str) and token]
