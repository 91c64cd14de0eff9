"""A small vision tower, trained here on pictures and their captions: CLIP's folder, CLIP's layers.

What it is: CLIP's image side (``CLIPVisionModel``), 36 patches of 4 x 4 pixels, three layers.
It learns as CLIP's does, contrastively: an image's vector must lie nearer to that of its own
caption than to those of the others. With only ten captions a text side could give no more than a
vector each, so it is ten vectors, thrown away at the end, and the others are always the same
nine: this is classification by another name.

What differs: the image's vector is the mean over the patches, not the class token, since the
patches are what a projector takes; and the layer before the last is trained towards the captions
too, since that is the one it takes them from.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pictures import Picture
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.utils import logging as transformers_logging

from mobilellama.files.atomic import write_json
from mobilellama.files.pretrained import load_tower
from mobilellama.vlm.data.images import PREPROCESSOR_FILE, AspectRatio, ImageProcessor, read_image
from mobilellama.vlm.towers import patch_features

SIZE_PIXELS, PATCH_PIXELS = 24, 4
WIDTH, LAYERS, HEADS = 64, 3, 4
FEATURE_LAYER = -2
BATCH_SIZE = 50
LEARNING_RATE = 3e-3
"""At its highest: it rises over the first 15 % of the steps and falls to nothing."""


def train_tower(
    pictures: Sequence[Picture], images: Path, output: Path, *, epochs: int = 8, seed: int = 0
) -> None:
    """Train a tower and write its folder: config.json, model.safetensors, preprocessor_config.json.

    Args:
        pictures: to learn from; none that is held out.
        images: their folder.
        output: made if missing.
        epochs: each shows every picture once, mostly padded to a square, else cropped to one.
        seed: of the weights and the order.
    """
    torch.manual_seed(seed)
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            image_size=SIZE_PIXELS,
            patch_size=PATCH_PIXELS,
        )
    )
    captions = sorted({picture.caption for picture in pictures})
    targets = torch.tensor([captions.index(picture.caption) for picture in pictures])
    heads = nn.ModuleList(_Contrast(len(captions)) for _ in range(2))
    padded, cropped = (_pixels(pictures, images, aspect) for aspect in ("pad", "square"))
    optimizer = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], weight_decay=0.05)
    batches = list(_batches(len(pictures), epochs, seed))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=len(batches), pct_start=0.15
    )
    tower.train()
    for rows, shift in batches:
        crops = torch.rand(len(rows), 1, 1, 1) < 0.25
        pixels = torch.where(crops, cropped[rows], padded[rows]).roll(shift, (2, 3))
        hidden = tower(_processor("pad").normalise(pixels), output_hidden_states=True).hidden_states
        losses = [
            head(hidden[layer], targets[rows])
            for head, layer in zip(heads, (-1, FEATURE_LAYER), strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    transformers_logging.disable_progress_bar()  # of writing and reading a file each
    tower.save_pretrained(output)
    write_json(output / PREPROCESSOR_FILE, _processor("square").to_hf())


def linear_probe(
    tower: Path, train: Sequence[Picture], heldout: Sequence[Picture], images: Path
) -> float:
    """Return the share of held-out digits that a linear model reads off the tower's features.

    The features are the mean over a picture's patches, of the layer that a projector takes; the
    model learns from 2,000 pictures. Answers about single pictures may be measured by it, though
    a projector sees each patch.
    """
    from sklearn.linear_model import LogisticRegression

    model = load_tower(CLIPVisionModel, tower).eval()

    @torch.no_grad()
    def features(pictures: Sequence[Picture]) -> np.ndarray:
        inputs = _processor("pad").normalise(_pixels(pictures, images, "pad"))
        return patch_features(model, inputs, FEATURE_LAYER).mean(1).numpy()

    train = train[:2_000]
    seen, digits = features(train), [picture.digit for picture in train]
    mean, deviation = seen.mean(0), seen.std(0)
    probe = LogisticRegression(max_iter=500).fit((seen - mean) / deviation, digits)
    asked = (features(heldout) - mean) / deviation
    return float(probe.score(asked, [picture.digit for picture in heldout]))


class _Contrast(nn.Module):
    """The captions' vectors, and CLIP's loss of images against them."""

    def __init__(self, captions: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.vectors = nn.Parameter(torch.randn(captions, WIDTH) * 0.1)
        self.scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the cross entropy of scaled cosines; hidden is (B, 1 + patches, width)."""
        seen = F.normalize(self.norm(hidden[:, 1:].mean(1)), dim=-1)
        cosines = seen @ F.normalize(self.vectors, dim=-1).T
        return F.cross_entropy(cosines * self.scale.exp(), targets)


def _processor(aspect_ratio: AspectRatio) -> ImageProcessor:
    return ImageProcessor(size_pixels=SIZE_PIXELS, aspect_ratio=aspect_ratio)


def _pixels(pictures: Sequence[Picture], images: Path, aspect_ratio: AspectRatio) -> Tensor:
    """Return the pictures as the tower takes them, before normalising: (B, 3, S, S) uint8."""
    processor = _processor(aspect_ratio)
    read = (read_image(images / picture.file) for picture in pictures)
    return torch.from_numpy(np.stack([processor.pixels(image) for image in read]))


def _batches(count: int, epochs: int, seed: int) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yield the rows of each batch, and by how many pixels down and across to move its images."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for rows in torch.from_numpy(rng.permutation(count)).split(BATCH_SIZE):
            down, across = rng.integers(-1, 2, 2).tolist()
            yield rows, (down, across)
