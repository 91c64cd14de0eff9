"""A vision-language model: a frozen tower, a projector and any causal language model.

The ids of a sample have one ``IMAGE`` for every token of an image. Their embeddings are the
projected features of the images, put there in order; all else is the language model's own.

Shape suffixes: B batch, T time, D width of the language model, P image tokens.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mobilellama.config import ConfigError
from mobilellama.files.pretrained import build_causal_model
from mobilellama.pretrain.attention import Documents, import_flash_attn
from mobilellama.pretrain.linear_cross_entropy import IGNORED, linear_cross_entropy
from mobilellama.pretrain.model import LossSums
from mobilellama.vlm import packed_attention
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.projectors.table import build_projector
from mobilellama.vlm.towers import build_tower, patch_features

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

TOWER, PROJECTOR, LANGUAGE = "vision_tower.", "projector.", "language_model."
"""What the names of the three parts' parameters begin with."""

# Fields of a language model's config under which its logits are not hidden @ head (+ bias).
_OTHER_LOGITS = {
    "final_logit_softcapping": None,
    "lm_head_multiplier": 1.0,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "logits_soft_cap": None,
    "output_multiplier": 1.0,
}


class VisionLanguageModel(nn.Module):
    """``forward`` gives losses; ``embed`` and ``language_model`` are what generation needs."""

    def __init__(
        self,
        config: Architecture,
        *,
        loss_chunk_tokens: int = 1024,
        attention: str = "sdpa",
    ) -> None:
        """Build the model; its weights are not initialised.

        Args:
            config: the architecture.
            loss_chunk_tokens: tokens whose logits are held at a time.
            attention: transformers' implementation in the language model.
        """
        super().__init__()
        self.config, self.loss_chunk_tokens = config, loss_chunk_tokens
        self.vision_tower = build_tower(config.vision)
        self.vision_tower.requires_grad_(False)
        self.projector = build_projector(
            config.projector,
            vision_width=config.vision_width,
            width=config.width,
            rules=config.rules,
        )
        self.language_model: Any = build_language_model(config.language, attention)
        taken = inspect.signature(self.language_model.base_model.forward).parameters.values()
        # Most hand on to their attention what they do not know.
        self._takes_more = any(one.kind is one.VAR_KEYWORD for one in taken)

    def train(self, mode: bool = True) -> "VisionLanguageModel":
        """Switch projector and language model; the tower stays in evaluation."""
        super().train(mode)
        self.vision_tower.eval()
        return self

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Return projected features, (images, P, D).

        Args:
            pixel_values: (images, 3, S, S) uint8.
        """
        dtype = next(self.vision_tower.parameters()).dtype
        with torch.no_grad():
            pixels = self.config.images.normalise(pixel_values).to(dtype)
            patches = patch_features(self.vision_tower, pixels, self.config.feature_layer)
        features = self.projector(patches)
        scale = self.config.feature_scale
        return features if scale == 1 else features * scale

    def embed(self, input_ids: Tensor, features: Tensor | None) -> Tensor:
        """Return the embeddings of ids, those of ``IMAGE`` from the features, (B, T, D).

        Args:
            input_ids: (B, T) int64.
            features: (images, P, D), in the order of the images' places; None: no images.
        """
        embeddings_BTD = self.language_model.get_input_embeddings()(input_ids.clamp(min=0))
        if features is None:
            return embeddings_BTD
        places_BT1 = (input_ids == IMAGE)[:, :, None]
        return embeddings_BTD.masked_scatter(places_BT1, features.to(embeddings_BTD.dtype))

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        pixel_values: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> LossSums:
        """Return the sums of the next-token losses.

        Args:
            input_ids: (B, T) int64; rows shorter than T are padded on the right.
            labels: (B, T) int64; the token that follows each input token, -100 = not supervised.
            pixel_values: (images, 3, S, S) uint8, of all rows in order; None: no images.
            position_ids: (B, T) int64; where it is given, each 0 begins a sample, and attention
                does not cross from one into the next.
        """
        if pixel_values is None and torch.is_grad_enabled():
            pixel_values = self._blank_image(input_ids.device)
        features = None if pixel_values is None else self.image_features(pixel_values)
        embeddings_BTD = self.embed(input_ids, features)
        hidden_BTD = self._hidden(embeddings_BTD, position_ids)
        head = self.language_model.get_output_embeddings()
        weight = head.weight
        if head.bias is not None:  # Phi's: one more input, which is always 1
            ones = torch.ones_like(hidden_BTD[..., :1])
            hidden_BTD = torch.cat([hidden_BTD, ones], dim=-1)
            weight = torch.cat([weight, head.bias[:, None]], dim=1)
        loss_sum, losses_BT = linear_cross_entropy(
            hidden_BTD, weight, labels, chunk_tokens=self.loss_chunk_tokens, supervised_only=True
        )
        return LossSums(
            loss_sum=loss_sum,
            sample_loss_sums=losses_BT.sum(dim=1),
            sample_tokens=(labels != IGNORED).sum(dim=1),
        )

    def _hidden(self, embeddings_BTD: Tensor, position_ids: Tensor | None) -> Tensor:
        """Return the language model's last hidden states, (B, T, D)."""
        B, T, _ = embeddings_BTD.shape
        given_BTD = embeddings_BTD
        attention = self.language_model.config._attn_implementation
        where: dict[str, object] = {}
        if attention.startswith("flash") and (position_ids is not None or B == 1):
            # With flash-attn, transformers looks for several samples in a row only where there is
            # one row; in more they would see each other. End to end the rows are one.
            if position_ids is None:
                documents = Documents.rows(B, T, embeddings_BTD.device)
            else:
                documents = Documents.from_positions(position_ids)
                given_BTD = embeddings_BTD.reshape(1, -1, self.config.width)
                position_ids = position_ids.reshape(1, -1)
            # What transformers is not told it derives in every layer, with three syncs in each.
            where = {
                "cu_seq_lens_q": documents.bounds,
                "cu_seq_lens_k": documents.key_bounds,
                "max_length_q": documents.longest,
                "max_length_k": documents.longest,
            }
        elif attention == packed_attention.NAME:
            where = {"documents": Documents.from_positions(position_ids)}
        if not self._takes_more:
            where = {}
        hidden_BTD = self.language_model.base_model(
            inputs_embeds=given_BTD, position_ids=position_ids, use_cache=False, **where
        ).last_hidden_state
        return hidden_BTD.view_as(embeddings_BTD)

    def _blank_image(self, device: torch.device) -> Tensor:
        """Return the image of a micro-batch that has none, (1, 3, S, S) uint8.

        Its features have no place to go to, so that the projector's gradients are zeros. What it
        gives is the same graph as with images: every rank makes the same gradients in the same
        order, in which ZeRO-2 adds them up (see gradient_order.py). Another way to zeros, such as
        a sum of the projector's weights times 0, gives another order.
        """
        side = self.config.images.size_pixels
        return torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)


def build_language_model(config: dict[str, object], attention: str) -> Any:
    """Build a causal language model of transformers.

    Raises:
        ConfigError: transformers does not know it, it is not causal, or its logits are not hidden
            states times a head.
    """
    from transformers import CONFIG_MAPPING

    kind = config["model_type"]
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        remedy = "Give a language model of transformers"
        raise ConfigError("init: model_type", kind, "is not known to transformers", remedy)
    known = CONFIG_MAPPING[kind].from_dict(config)
    for name, plain in _OTHER_LOGITS.items():  # what config.json leaves out has a default there
        if (value := getattr(known, name, plain)) not in (None, plain):
            rule = "changes the logits after the head, which the loss does not compute"
            raise ConfigError(f"init: {name}", value, rule, "Give another language model")
    _require_causal(known)
    try:
        model = build_causal_model(known, attn_implementation=attention)
    except ValueError as error:
        rules = {
            "Unrecognized configuration": "is not a causal model",
            "trust_remote_code": "needs Python code of its own, and such code is not run",
            "does not support an attention implementation": f"has no '{attention}' attention",
        }
        for words, rule in rules.items():
            if words in str(error):
                remedy = "Give another language model"
                raise ConfigError("init: model_type", kind, rule, remedy) from None
        raise
    _require_plain_head(model)
    return model


def _require_causal(known: "PretrainedConfig") -> None:
    """Raise ConfigError if a config lets tokens see later ones."""
    fields = {"is_causal": (False,), "use_bidirectional_attention": (True, "all")}
    # GPT-NeoX's config says false too, and is causal. BERT's has another head in any case.
    if known.model_type == "bert-generation":
        fields["is_decoder"] = (False,)
    for name, seeing in fields.items():
        if (value := getattr(known, name, None)) in seeing:
            rule = "lets a token see later ones, so that the model cannot learn to predict them"
            remedy = "Give a causal language model"
            raise ConfigError(f"init: {name}", value, rule, remedy)


def _require_plain_head(model: "PreTrainedModel") -> None:
    """Raise ConfigError if there is a layer between the hidden states and the head.

    BERT's family has one, also as a decoder.
    """
    parts = (model.base_model, model.get_output_embeddings())
    held = {id(its) for part in parts if part is not None for its in part.parameters()}
    for name, parameter in model.named_parameters():
        # Biases are left out: some models hold the head's own a second time.
        if parameter.ndim > 1 and id(parameter) not in held:
            rule = f"has a layer between hidden states and head ({name}), which the loss leaves out"
            kind = model.config.model_type
            raise ConfigError("init: model_type", kind, rule, "Give another language model")


def build_on(
    device: torch.device,
    config: Architecture,
    *,
    loss_chunk_tokens: int = 1024,
    gradient_checkpointing: bool = False,
    half_precision: bool = False,
    packed: bool = False,
    adapt: Callable[[nn.Module], object] | None = None,
) -> VisionLanguageModel:
    """Build the model on a device with zeros for weights.

    Args:
        device: where to.
        config: the architecture.
        loss_chunk_tokens: tokens whose logits are held at a time.
        gradient_checkpointing: compute each layer of the language model again in the backward.
        half_precision: whether it will compute in bf16, which flash attention takes alone.
        packed: whether it will train on rows of several samples.
        adapt: changes the model while its weights are on ``meta``: adds adapters, freezes.
    """
    from accelerate import init_empty_weights

    attention = attention_for(device, half_precision=half_precision)
    # Buffers are made: tables of rotary positions are in no file of weights.
    with init_empty_weights(include_buffers=False):
        model = VisionLanguageModel(
            config, loss_chunk_tokens=loss_chunk_tokens, attention=attention
        )
    if packed and attention == "sdpa":
        packed_attention.use(model.language_model)
    if adapt:
        adapt(model)
    if gradient_checkpointing:
        language = model.language_model  # whose method has another name in newer versions
        enable = getattr(language, "activation_checkpointing_enable", None)
        (enable or language.gradient_checkpointing_enable)({"use_reentrant": False})
    for module in model.modules():
        for name, value in [*module.named_parameters(recurse=False)]:
            zeros = torch.zeros(value.shape, dtype=torch.float32, device=device)
            setattr(module, name, nn.Parameter(zeros, requires_grad=value.requires_grad))
    model.language_model.tie_weights()  # where head and embedding are one
    return model.to(device).train()


def attention_for(device: torch.device, *, half_precision: bool) -> str:
    """Return the name of transformers' attention that the language model gets on a device."""
    can_flash = half_precision and device.type == "cuda" and import_flash_attn()
    return "flash_attention_2" if can_flash else "sdpa"


def parameter_shapes(
    config: Architecture, adapt: Callable[[nn.Module], object] | None = None
) -> dict[str, torch.Size]:
    """Return name and shape of every parameter, each once."""
    with torch.device("meta"):
        model = VisionLanguageModel(config)
        if adapt:
            adapt(model)
    return {name: parameter.shape for name, parameter in model.named_parameters()}
