"""Is an exported folder the model that was trained?

Every weight that was written is read again through the folder's own reader. Of a LoRA run, the
logits of base plus adapter, computed side by side, are compared with the merged model's.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mobilellama.pretrain.hf.export_check import require_same_logits
from mobilellama.pretrain.hf.weights import DTYPES, cast
from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
from mobilellama.pretrain.weight_source import WeightSource, fill, shapes_of
from mobilellama.sft.lora import inject
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.formats.folder import open_folder
from mobilellama.vlm.formats.trained import Trained
from mobilellama.vlm.model import LANGUAGE, VisionLanguageModel, build_on

_TOKENS = 16  # of text, half before the image


def check_weights(folder: Path, trained: Trained, *, dtype: str) -> None:
    """Read a folder of either form again.

    Args:
        folder: the export.
        trained: what it was made of.
        dtype: of the export.

    Raises:
        RuntimeError: it computes something else, or a weight differs in a bit.
    """
    opened = open_folder(folder)
    found, expected = computation(opened.architecture), computation(trained.architecture)
    if opened.form == "published":
        # The original drops transparency; positions and vocabulary are in the shapes.
        found, expected = (its | {"transparency": "", "language": {}} for its in (found, expected))
    if differing := [name for name in expected if found[name] != expected[name]]:
        names = ", ".join(differing)
        raise RuntimeError(f"{folder}: reads back with another {names}; the export was not kept")
    for name in trained.shapes:
        wanted = cast(name, trained.weights.parameter(name), DTYPES[dtype])
        if not torch.equal(opened.weights.stored(name), wanted):
            raise RuntimeError(f"{folder}: '{name}' reads back changed; the export was not kept")
    opened.weights.close()


def computation(architecture: Architecture) -> dict[str, object]:
    """Return what decides a model's results, by name."""
    sizes = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "image_size")
    more = ("num_attention_heads", "patch_size", "hidden_act", "layer_norm_eps")
    return {
        **{f"tower's {name}": architecture.vision.get(name) for name in (*sizes, *more)},
        **asdict(architecture.images),
        "language": architecture.language,
        "projector": architecture.projector,
        "number of image tokens": architecture.image_tokens,
        "feature_layer": architecture.feature_layer,
    }


def check_merged(trained: Trained) -> float:
    """Return how far the merged logits are from base plus adapter's, of the largest logit.

    Both are computed in fp32, one model after the other.

    Raises:
        RuntimeError: by more than rounding.
    """
    assert trained.checkpoint is not None
    adapt = partial(inject, config=trained.lora, prefix=LANGUAGE)
    cpu = torch.device("cpu")
    unmerged = build_on(cpu, trained.architecture, adapt=adapt)
    expected = _logits(unmerged, CheckpointWeights(trained.checkpoint, shapes_of(unmerged)))
    del unmerged
    found = _logits(build_on(cpu, trained.architecture), trained.weights)
    return require_same_logits(found, expected, what="base plus adapter: merged logits")


@torch.no_grad()
def _logits(model: VisionLanguageModel, source: WeightSource) -> Tensor:
    """Return logits on a drawn image and text, (1, T, V) fp32, without dropout."""
    fill(model, source)
    config, generator = model.config, torch.Generator().manual_seed(0)
    texts = torch.randint(config.vocab_size, (1, _TOKENS), generator=generator)
    places = torch.full((1, config.image_tokens), IMAGE)
    input_ids = torch.cat([texts[:, : _TOKENS // 2], places, texts[:, _TOKENS // 2 :]], dim=1)
    pixels = torch.randint(
        256, (1, 3, config.image_pixels, config.image_pixels), generator=generator
    ).to(torch.uint8)
    model.eval()
    embeddings = model.embed(input_ids, model.image_features(pixels))
    return model.language_model(inputs_embeds=embeddings, use_cache=False).logits
