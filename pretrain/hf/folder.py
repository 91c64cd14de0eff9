"""A Hugging Face folder of Llama's shape, from anyone, as a source of this model's weights.

    config.json                            either version's spelling, leftover keys ignored
    model.safetensors                      or, in this order of preference,
    model.safetensors.index.json           with its shards,
    pytorch_model.bin                      read with weights_only, so that no code in it runs,
    pytorch_model.bin.index.json           with its shards

Names and shapes must be exactly those of the config's model: what is skipped silently here is
noise in a finetuning run. Only ``*.rotary_emb.inv_freq`` is left aside, which versions before
4.32 of transformers stored although it follows from the config.
"""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mobilellama.config import ConfigError, DataError
from mobilellama.files.pretrained import require_no_code
from mobilellama.files.safetensors_file import FLOATS
from mobilellama.pretrain.hf.weight_files import StoredWeights, read_object, some
from mobilellama.pretrain.model import LanguageModel
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.weight_source import WeightSource, dims, shapes_of

log = logging.getLogger(__name__)

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class HfFolder(WeightSource):
    """The weights of an exported or published Llama, by parameter name.

    A tied head (``tie_word_embeddings``) is given as a copy of the embedding: our model has no
    tied weights.

    Args:
        folder: holds config.json and the weights.
        field: the config field that named the folder, for messages.

    Raises:
        ConfigError: it is no such folder, or its model computes what ours does not.
        DataError: a file is damaged, or its names or shapes are not those of the config's model.
    """

    def __init__(self, folder: str | Path, *, field: str = "init") -> None:
        self.folder = Path(folder)
        remedy = "Give a folder with config.json and model.safetensors or pytorch_model.bin"
        if not (self.folder / "config.json").is_file():
            is_folder = self.folder.is_dir()
            rule = "has no config.json" if is_folder else "is not a folder"
            raise ConfigError(field, str(folder), rule, remedy)
        values = read_object(self.folder / "config.json")
        require_no_code(self.folder, field=field)
        self.config = model_config(values, self.folder / "config.json")
        self.tied = bool(values.get("tie_word_embeddings", False))
        self._weights = StoredWeights(self.folder, field, remedy)
        self._require_the_configs_model()

    def names(self) -> list[str]:
        """Return the names of the parameters, in the order of our model's."""
        return list(self._shapes)

    def shape(self, name: str) -> torch.Size:
        """Return a parameter's shape."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype that a parameter is stored in: fp32, bf16 or fp16."""
        return self._weights.dtype(self._stored_name(name))

    def stored(self, name: str) -> Tensor:
        """Return a parameter as it is stored. It may be a view of the file."""
        return self._weights.stored(self._stored_name(name))

    def _stored_name(self, name: str) -> str:
        return _EMBEDDING if self.tied and name == _HEAD else name

    @property
    def fingerprint(self) -> str:
        """Identity of the folder; see ``StoredWeights``."""
        return self._weights.fingerprint

    def close(self) -> None:
        """Let go of the files."""
        self._weights.close()

    @cached_property
    def _shapes(self) -> dict[str, torch.Size]:
        with torch.device("meta"):
            return shapes_of(LanguageModel(self.config))

    def _require_the_configs_model(self) -> None:
        """Check every name, shape and dtype; leave the rotary tables aside."""
        names = self._weights.names()
        stray = [name for name in names if name.endswith(".rotary_emb.inv_freq")]
        if stray:
            log.info("%s: %d stored rotary tables are ignored", self.folder, len(stray))
        stored = set(names) - set(stray)
        wanted = set(self._shapes)
        if self.tied:
            log.warning(
                "%s: its head is tied to its embedding. Here the head is a copy, and training "
                "changes the two apart",
                self.folder,
            )
            stored, wanted = stored - {_HEAD}, wanted - {_HEAD}
        missing, unexpected = sorted(wanted - stored), sorted(stored - wanted)
        if missing or unexpected:
            hint = ""
            if "embed_tokens.weight" in unexpected:
                hint = "; the names lack the prefix 'model.': save the model with its head"
            raise DataError(
                f"{self.folder}: its weights do not fit the model of its config.json: "
                f"{some(missing)} missing, {some(unexpected)} unexpected{hint}"
            )
        for name in self._shapes if not self.tied else wanted:
            found, shape = self._weights.shape(name), self._shapes[name]
            if found != shape:
                raise DataError(
                    f"{self.folder}: '{name}' is {dims(found)}, but the model of its config.json "
                    f"wants {dims(shape)}"
                )
            if (dtype := self._weights.dtype(name)) not in FLOATS.values():
                raise DataError(
                    f"{self.folder}: '{name}' is stored as {dtype}; fp32, bf16 and fp16 can be read"
                )


def model_config(values: Mapping[str, object], path: Path) -> ModelConfig:
    """Return the architecture that a config.json describes.

    Args:
        values: its content.
        path: its path, for messages.

    Raises:
        ConfigError: a size is missing, or the model computes what ours does not.
    """
    _require_same_computation(values, path)
    width, heads = (_size(values, key, path) for key in ("hidden_size", "num_attention_heads"))
    head_dim = values.get("head_dim")
    if head_dim is not None and _size(values, "head_dim", path) * heads != width:
        rule = f"must be hidden_size / num_attention_heads = {width} / {heads}"
        raise _refusal(path, "head_dim", head_dim, rule)
    return ModelConfig(
        vocab_size=_size(values, "vocab_size", path),
        d_model=width,
        n_layers=_size(values, "num_hidden_layers", path),
        n_heads=heads,
        n_kv_heads=_size(values, "num_key_value_heads", path, default=heads),
        d_ff=_size(values, "intermediate_size", path),
        max_seq_len=_size(values, "max_position_embeddings", path, default=2048),
        rope_theta=_rope_theta(values, path),
        norm_eps=_number(values, "rms_norm_eps", 1e-6, path),
    )


def _require_same_computation(values: Mapping[str, object], path: Path) -> None:
    """Raise ConfigError for the first key whose value asks for another computation."""
    model_type = values.get("model_type", "(absent)")
    if model_type not in ("llama", "mistral"):
        raise _refusal(path, "model_type", model_type, "must be llama or mistral")
    only: dict[str, tuple[object, ...]] = {
        "hidden_act": ("silu",),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "quantization_config": (None,),
    }
    for key, allowed in only.items():
        if values.get(key, allowed[0]) not in allowed:
            raise _refusal(path, key, values[key], f"must be {str(allowed[0]).lower()}")
    if model_type == "mistral":
        # Absent means 4096 to transformers. A window as wide as the context hides nothing.
        if values.get("sliding_window", 4096) is not None:
            window = _size(values, "sliding_window", path, default=4096)
            if window < _size(values, "max_position_embeddings", path):
                rule = "attention must reach over max_position_embeddings"
                raise _refusal(path, "sliding_window", window, rule)
        if values.get("num_key_value_heads") is None:
            rule = "must be given, because its default is not num_attention_heads"
            raise _refusal(path, "num_key_value_heads", None, rule)


def _rope_theta(values: Mapping[str, object], path: Path) -> float:
    """Return the base of the rotary frequencies: version 5 keeps it in rope_parameters."""
    for key in ("rope_scaling", "rope_parameters"):
        its = values.get(key) or {}
        if not isinstance(its, Mapping):
            raise _refusal(path, key, its, "must be a mapping")
        kind = its.get("rope_type", its.get("type", "default"))
        if kind != "default" or its.get("partial_rotary_factor", 1) != 1:
            raise _refusal(path, key, its, "rotary positions must not be scaled or partial")
    if values.get("partial_rotary_factor") not in (None, 1):
        key = "partial_rotary_factor"
        raise _refusal(path, key, values[key], "must be 1")
    new = values.get("rope_parameters")
    holder = new if isinstance(new, Mapping) and "rope_theta" in new else values
    return _number(holder, "rope_theta", 10_000.0, path)


def _size(values: Mapping[str, object], key: str, path: Path, *, default: int | None = None) -> int:
    value = values.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        shown = "(absent)" if value is None else value
        raise _refusal(path, key, shown, "must be a whole number above 0")
    return value


def _number(values: Mapping[str, object], key: str, default: float, path: Path) -> float:
    value = values.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refusal(path, key, value, "must be a number")
    return float(value)


def _refusal(path: Path, key: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"{path}: {key}", value, rule, "Give a folder of the LLaMA architecture")
