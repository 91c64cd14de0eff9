"""Records in LLaVA's format, tokenised, and what makes a model's arguments of them."""

from dataclasses import dataclass
from pathlib import Path

from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.vlm.data.batches import ImageTextInputs
from mobilellama.vlm.data.images import ImageProcessor
from mobilellama.vlm.data.records import ImageTextConfig
from mobilellama.vlm.data.sample_file import Recipe, build_samples
from mobilellama.vlm.data.samples import Samples

TOKENS, PAD, ROW = 4, 0, 512
PROCESSOR = ImageProcessor(size_pixels=16)


@dataclass(frozen=True, kw_only=True)
class Data:
    samples: Samples
    inputs: ImageTextInputs
    images: Path


def build_data(folder: Path, data: Path, images: Path, tokenizer: Path) -> Data:
    """Tokenise records into ``folder/train.arrow``, and open them."""
    recipe = Recipe(
        data=ImageTextConfig(path=str(data), images=str(images)),
        tokenizer=str(tokenizer),
        tokenizer_sha256=open_tokenizer(tokenizer).sha256,
        template=read_template("vicuna_v1"),
        image_tokens=TOKENS,
        seq_len=ROW,
    )
    build_samples(folder / "train.arrow", recipe, fingerprint=recipe.fingerprint(), workers=1)
    return open_data(folder, images)


def open_data(folder: Path, images: Path) -> Data:
    """Open what ``build_data`` made."""
    samples = Samples(folder / "train.arrow", image_tokens=TOKENS)
    inputs = ImageTextInputs(samples, images, PROCESSOR, image_tokens=TOKENS, pad_id=PAD)
    return Data(samples=samples, inputs=inputs, images=images)
