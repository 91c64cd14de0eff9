"""The published form's small files: config.json, generation_config.json and the slow tokenizer's.

The fields are those of MobileVLM's and MobileVLM V2's config.json, as transformers 4.33 wrote them
(mtgv/MobileVLM-1.7B, mtgv/MobileVLM_V2-1.7B). The original builds a CLIP tower from the name in
mm_vision_tower, and its image processor too.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from mobilellama.config import ConfigError
from mobilellama.files.atomic import write_json
from mobilellama.pretrain.hf.device import DTYPE_NAMES
from mobilellama.pretrain.hf.folder import model_config
from mobilellama.pretrain.model import INIT_STD
from mobilellama.tokenizers.hf_files import CONFIG_FILE
from mobilellama.tokenizers.text_tokenizer import SENTENCEPIECE_FILE
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.data.images import CLIP_MEAN, CLIP_STD, PREPROCESSOR_FILE
from mobilellama.vlm.formats.folder import PUBLISHED
from mobilellama.vlm.formats.known_towers import find_known
from mobilellama.vlm.formats.published_tower import tower_facts
from mobilellama.vlm.formats.trained import Trained

log = logging.getLogger(__name__)

CLIP_NAME = "openai/clip-vit-large-patch14-336"
_TRANSFORMERS = "4.33.1"  # the original's
_CONSTANTS: dict[str, object] = {
    "freeze_mm_mlp_adapter": False,
    "image_grid_pinpoints": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "pretraining_tp": 1,
    "transformers_version": _TRANSFORMERS,
    "use_cache": True,
    "use_mm_proj": True,
}


def require_publishable(trained: Trained, vision_tower: str | None) -> str:
    """Return the tower's name for mm_vision_tower.

    Args:
        trained: what is to be written.
        vision_tower: a name that was given; None takes what a former import says, or
            ``CLIP_NAME`` where the tower has that one's sizes.

    Raises:
        ConfigError: the published form cannot say what the model is.
    """
    architecture = trained.architecture
    kind = architecture.language["model_type"]
    if kind != "llama":
        raise _refusal("language model", kind, "must be llama, as in the original")
    model_config(architecture.language, trained.path)  # refuses what the original does not compute
    if not isinstance(trained.tokenizer, Tokenizer):
        path = str(trained.tokenizer.path)
        raise _refusal("tokenizer", path, "must be a sentencepiece model, as LLaMA's is")
    tower = architecture.vision["model_type"]
    if tower != "clip_vision_model":
        raise _refusal("vision tower", tower, "must be clip_vision_model, as in the original")
    if architecture.projector_class.published_keys is None:
        raise _refusal("projector", architecture.projector, "is not one of the original's")
    if (rule := architecture.differs_from_original) is not None:
        is_pooling, now = rule == "pooling", getattr(architecture, rule)
        theirs = "12 x 12 tokens" if is_pooling else "a squeeze that is rounded"
        raise _refusal(f"projector's {rule}", now, f"is not the original's, which has {theirs}")
    if architecture.images.aspect_ratio == "squash":
        raise _refusal("image aspect ratio", "squash", "must be square or pad")
    before = trained.published.get("mm_vision_tower")
    name = vision_tower or (before if isinstance(before, str) else None)
    if name is None:
        facts = tower_facts(architecture.vision)
        del facts["projection_dim"]  # of the layer after the tower
        if find_known(CLIP_NAME, facts) is None:
            rule = f"is not given, and the tower does not have the sizes of {CLIP_NAME}"
            remedy = "Give the name under which the original code finds such a tower"
            raise ConfigError("vision_tower", "null", rule, remedy)
        return CLIP_NAME
    if not name.startswith(("openai", "laion")) and not Path(name).exists():
        rule = "must begin with openai or laion, or be a folder: the original takes no other"
        raise ConfigError("vision_tower", name, rule, f"Give e.g. {CLIP_NAME}")
    return name


def _vision_config(trained: Trained, name: str) -> dict[str, object]:
    """Return the field that says what no reader can know by the tower's name, if there is any."""
    facts = tower_facts(trained.architecture.vision)
    known = find_known(name, {key: its for key, its in facts.items() if key != "projection_dim"})
    if known is not None:
        return {}
    before = trained.published.get("vision_config")
    if isinstance(before, Mapping) and tower_facts(facts | dict(before)) == facts:
        return {"vision_config": dict(before)}
    log.warning(
        "the original code takes the tower's heads, activation and epsilon from %s, which must be "
        "this tower's; they are in config.json's vision_config too", name,
    )  # fmt: skip
    return {"vision_config": facts}


def _refusal(field: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"format mobilevlm: {field}", value, rule, "Export with --format hf")


def published_config(
    trained: Trained, *, vision_tower: str, dtype: str, title: str
) -> dict[str, object]:
    """Return config.json with exactly the published fields.

    What a folder was imported from says those that are no fact of the model.

    Args:
        trained: a model that ``require_publishable`` took.
        vision_tower: its tower's name.
        dtype: of the weights that are written.
        title: stands in _name_or_path, where the originals have a path of their machine.
    """
    architecture, tokenizer = trained.architecture, trained.tokenizer
    language = model_config(architecture.language, trained.path)
    given = architecture.language
    kept = dict(trained.published)
    facts: dict[str, object] = {
        "architectures": ["MobileLlamaForCausalLM"],
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "hidden_act": "silu",
        "hidden_size": language.d_model,
        "image_aspect_ratio": architecture.images.aspect_ratio,
        "initializer_range": given.get("initializer_range", INIT_STD),
        "intermediate_size": language.d_ff,
        "max_position_embeddings": language.max_seq_len,
        "mm_hidden_size": architecture.vision_width,
        "mm_projector_type": architecture.projector,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": architecture.feature_layer,
        "mm_vision_tower": vision_tower,
        "model_type": PUBLISHED,
        "num_attention_heads": language.n_heads,
        "num_hidden_layers": language.n_layers,
        "num_key_value_heads": language.kv_heads,
        "pad_token_id": tokenizer.pad_id,
        "rms_norm_eps": language.norm_eps,
        "rope_scaling": None,
        "rope_theta": language.rope_theta,
        "tie_word_embeddings": False,
        "torch_dtype": DTYPE_NAMES[dtype],
        "vision_tower_type": "clip",
        "vocab_size": language.vocab_size,
    }
    own = {"_name_or_path": title, "tune_mm_mlp_adapter": trained.is_aligned_only}
    if "max_sequence_length" in given:  # MobileLLaMA-1.4B's
        own["max_sequence_length"] = given["max_sequence_length"]
    if architecture.projector_class.has_published_rate:
        optimizer = trained.config["optimizer"] if trained.config else {}
        own["mm_projector_lr"] = optimizer.get("projector_learning_rate")
    kept.pop("vision_config", None)
    facts |= _vision_config(trained, vision_tower)
    return dict(sorted((({**_CONSTANTS, **own} if not kept else kept) | facts).items()))


def write_small_files(
    folder: Path, trained: Trained, *, vision_tower: str, dtype: str, title: str
) -> None:
    """Write all files but weights and card; the folder exists. Arguments as above."""
    tokenizer, architecture = trained.tokenizer, trained.architecture
    assert isinstance(tokenizer, Tokenizer)
    values = published_config(trained, vision_tower=vision_tower, dtype=dtype, title=title)
    write_json(folder / "config.json", values)
    ids = {f"{name}_token_id": values[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
    generation = {"_from_model_config": True, **ids, "transformers_version": _TRANSFORMERS}
    write_json(folder / "generation_config.json", generation)
    (folder / SENTENCEPIECE_FILE).write_bytes(tokenizer.model_bytes)
    spelt = {
        f"{name}_token": tokenizer.processor.id_to_piece(i)
        for name, i in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id))
    } | {"unk_token": tokenizer.processor.id_to_piece(tokenizer.unk_id)}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    tokens = {name: {"content": text, **plain} for name, text in spelt.items()}
    pad = {"pad_token": spelt["unk_token"]}
    write_json(folder / "special_tokens_map.json", tokens | pad)
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        **{name: {"__type": "AddedToken", **token} for name, token in tokens.items()},
        **pad,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        "model_max_length": architecture.max_seq_len,
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
    }
    write_json(folder / CONFIG_FILE, config)
    images = architecture.images
    if images.orientation != "as_stored":
        log.warning("trained on images as_shown; the original code does not turn them as EXIF says")
    if (images.mean, images.std, images.orientation) != (CLIP_MEAN, CLIP_STD, "as_stored"):
        # The original asks its tower's name; our reader asks the folder.
        write_json(folder / PREPROCESSOR_FILE, architecture.images.to_hf())
