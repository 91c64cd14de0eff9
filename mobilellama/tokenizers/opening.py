"""Open the tokenizer of a path, with the ids that its model was trained with.

A folder may hold a sentencepiece model, a tokenizer.json or both:

1. If a dataset or a run has a sub-folder ``tokenizer/``, its files are used.
2. ``tokenizer.model`` is used if it gives all ids of the folder.
3. Otherwise ``tokenizer.json`` is used. ``conversion.py`` compares its ids with those of the
   sentencepiece model that it was made from.
"""

import json
import logging
from pathlib import Path

from mobilellama.config import ConfigError
from mobilellama.tokenizers.conversion import find_fault
from mobilellama.tokenizers.fast_tokenizer import broken_rules, special_pieces
from mobilellama.tokenizers.hf_files import TOKENIZER_FILE, is_written_by_us
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer, added_tokens
from mobilellama.tokenizers.text_tokenizer import HF_FOLDER, SENTENCEPIECE_FILE, TextTokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_ANY_KIND = (
    f"Give a sentencepiece .model file, a {TOKENIZER_FILE}, or a folder on this machine that holds "
    "one of them"
)
_MOST_NAMED = 4  # tokens in one message

# Files of a trained model. An index counts too: its files may still have to be fetched.
_WEIGHTS = (
    "*.safetensors", "*.bin", "*.gguf", "*.pth", "*.pt", "*.ckpt", "*.h5", "*.msgpack", "*.onnx",
    "*.index.json", "adapter_config.json",
)  # fmt: skip


class WrongIdsError(ConfigError):
    """A tokenizer.json gives other ids than the model that it was made from."""


def open_tokenizer(
    path: str | Path, *, field: str = "tokenizer", as_is: bool = False, trained: bool = False
) -> TextTokenizer:
    """Open a tokenizer of either kind, with the ids that its model was trained with.

    A tokenizer.json that transformers 5 made from a sentencepiece model gives other ids. In a
    folder without weights it is corrected, and the correction is logged. In a folder with weights
    it is refused, because the weights may have been trained with either ids. The tokenizer of a
    dataset, a run or an export of ours is never changed: models were trained with it.

    Args:
        path: a sentencepiece .model file, a tokenizer.json, a Hugging Face folder, or a
            dataset or run folder. If a folder has both kinds of file, tokenizer.model is used
            if tokenizer.json adds no token to it.
        field: the field that names it, for errors.
        as_is: take the ids of tokenizer.json unchanged.
        trained: treat the folder as one with weights, although it may hold none.

    Raises:
        ConfigError: there is no tokenizer, or it cannot be read.
        WrongIdsError: tokenizer.json gives other ids than its model does.
    """
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
    """Open the tokenizer with a known sha256: either of a folder's two, or the corrected one.

    Args:
        path: see ``open_tokenizer``.
        sha256: the sha256 of the tokenizer.
        field: the field that names it, for errors.
        owner: what was made with the tokenizer, for errors.

    Raises:
        ConfigError: there is no tokenizer, or it has another sha256.
    """
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
    """Return the tokenizer of a path, and the tokenizer of the other kind in the same folder."""
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


def _model_of(folder: Path, field: str, has_json: bool) -> Tokenizer | None:
    """Return a folder's sentencepiece model if it gives all ids of the folder, else None."""
    try:
        tokenizer = Tokenizer(folder / SENTENCEPIECE_FILE, field=field)
    except ConfigError:
        if has_json:  # in some folders this name is another kind of file
            return None
        raise
    added = sorted(set(added_tokens(folder, field=field)) - {*special_pieces(tokenizer)})
    if not added and (not has_json or _is_conversion(folder / TOKENIZER_FILE, tokenizer)):
        return tokenizer
    if not has_json:
        named = ", ".join(added[:_MOST_NAMED])
        rule = f"adds {named} to {SENTENCEPIECE_FILE}, without {TOKENIZER_FILE}"
        remedy = f"Save it with transformers, which writes {TOKENIZER_FILE}"
        raise ConfigError(field, str(folder), rule, remedy)
    return None


def _file_beside(folder: Path, field: str) -> TextTokenizer | None:
    """Return the tokenizer.json beside a sentencepiece model. None: it cannot be read."""
    try:
        return HfTokenizer(folder, field=field)
    except ConfigError:
        return None


def model_beside(folder: str | Path, field: str) -> Tokenizer | None:
    """Return the sentencepiece model of a folder. None: there is none."""
    try:
        return Tokenizer(Path(folder) / SENTENCEPIECE_FILE, field=field)
    except ConfigError:
        return None


def _is_trained_with(tokenizer: HfTokenizer) -> bool:
    """Whether a tokenizer.json belongs to a dataset, a run or an export of ours."""
    folder = tokenizer.path.parent
    ours = ("dataset.json", "plan.json", "attempts", "checkpoints")
    in_ours = folder.name == HF_FOLDER and any((folder.parent / name).exists() for name in ours)
    return in_ours or is_written_by_us(tokenizer.config)


def _weights_beside(path: Path) -> str | None:
    """Return the name of a file of weights in a tokenizer's folder. None: there is none."""
    names = (found.name for pattern in _WEIGHTS for found in sorted(path.parent.glob(pattern)))
    return next((name for name in names if not name.startswith("training_args")), None)


def _is_conversion(path: Path, tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer.json has the model's pieces, and we can write the same ids."""
    vocabulary = json.loads(path.read_bytes()).get("model", {}).get("vocab")
    pieces = {piece.piece: i for i, piece in enumerate(tokenizer.proto.pieces)}
    return vocabulary == pieces and not broken_rules(tokenizer)
