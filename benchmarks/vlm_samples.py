"""Made samples for vlm_throughput.py: their lengths, their files, and the positions they fill.

Lengths follow llava_v1_5_mix665k's, roughly: mostly several short questions about an image with
answers of a word or two, some descriptions, lists of regions, and 6 % of long conversations
without an image.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilellama.sft.data.packing import pack
from mobilellama.shards.order import DEFAULT_SEED
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.data.order import SampleOrder, deal_rows

SYSTEM_TOKENS, FRAME_TOKENS, TOKENS_OF_A_WORD = 35, 5, 1.7
TEXT_ONLY = 0.06
IMAGE_FILES = 64
WAYS = {  # grouping, pack
    "padded": ("none", False),
    "grouped": ("modality_length", False),
    "packed": ("modality_length", True),
}


class Made(NamedTuple):
    """What a sample is like: the ids of its text are random."""

    mask: NDArray[np.bool_]
    """(T,): whether a token is supervised; an image's one place counts as one."""
    has_image: bool


def make_law(count: int, *, seed: int, seq_len: int, image_tokens: int) -> list[Made]:
    """Return samples as many and as long as mix665k's, roughly."""
    rng = random.Random(seed)

    def words(median: float, sigma: float) -> int:
        return max(1, round(TOKENS_OF_A_WORD * median * rng.lognormvariate(0, sigma)))

    made = []
    for _ in range(count):
        kind = rng.random()
        if kind < TEXT_ONLY:  # ShareGPT
            turns, question, answer = rng.lognormvariate(0.8, 0.9), (20, 1.1), (110, 0.9)
        elif kind < 0.65:  # VQA, GQA, OCR: several questions about an image
            turns, question, answer = rng.lognormvariate(1.4, 0.7), (7, 0.3), (1, 0.5)
        elif kind < 0.85:  # regions and their boxes
            turns, question, answer = rng.lognormvariate(1.8, 0.6), (12, 0.4), (10, 0.4)
        else:  # conversations and descriptions
            turns, question, answer = rng.lognormvariate(0.6, 0.6), (12, 0.4), (60, 0.7)
        has_image = kind >= TEXT_ONLY
        mask = [False] * (SYSTEM_TOKENS + has_image)
        for _ in range(min(60, max(1, round(turns)))):
            mask += [False] * (FRAME_TOKENS + words(*question)) + [True] * (words(*answer) + 1)
        room = seq_len - (image_tokens - 1) * has_image
        made.append(Made(np.array(mask[:room]), has_image))
    return [sample for sample in made if sample.mask.any()]


def make_captions(count: int, *, seed: int) -> list[Made]:
    """Return samples like LLaVA-558K's: an image and a caption of a dozen words."""
    rng = random.Random(seed)
    lengths = [round(20 * rng.lognormvariate(0, 0.4)) + 1 for _ in range(count)]
    return [Made(np.array([False, False, *[True] * length]), True) for length in lengths]


def pick(made: Sequence[Made], count: int) -> list[Made]:
    """Return so many, at even distances in the order of modality and length."""
    ordered = sorted(made, key=lambda sample: (sample.has_image, len(sample.mask)))
    return [ordered[int((i + 0.5) * len(made) / count)] for i in range(count)]


def write_samples(path: Path, made: Sequence[Made], vocab_size: int) -> Path:
    """Write them as 'vlm run' does."""
    import pyarrow as pa

    columns = {
        "id": pa.string(), "place": pa.string(), "images": pa.list_(pa.binary()),
        "input_ids": pa.list_(pa.int32()), "supervised": pa.list_(pa.bool_()),
    }  # fmt: skip
    schema, generator = pa.schema(columns), np.random.default_rng(0)
    rows = []
    for number, sample in enumerate(made):
        ids = generator.integers(3, vocab_size, size=len(sample.mask))
        if sample.has_image:
            ids[int(np.argmax(sample.mask)) - 1] = IMAGE  # somewhere before the first answer
        rows.append(
            {
                "id": str(number),
                "place": str(number),
                "images": [f"{number % IMAGE_FILES}.jpg".encode()] * sample.has_image,
                "input_ids": ids,
                "supervised": sample.mask,
            }
        )
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(rows), 512):
            part = pa.RecordBatch.from_pylist(rows[start : start + 512], schema=schema)
            writer.write_batch(part)
    return path


def write_images(folder: Path, pixels: int) -> Path:
    """Write some JPEGs, a little wider than high, and return their folder."""
    folder.mkdir()
    generator = np.random.default_rng(1)
    for number in range(IMAGE_FILES):
        coarse = generator.integers(0, 256, size=(9, 12, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((pixels, pixels * 3 // 4), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.jpg", quality=90)
    return folder


def positions_of(
    made: Sequence[Made], way: str, *, batch: int, micro: int, seq_len: int, image_tokens: int
) -> int:
    """Return the positions that an epoch computes on one rank, padding included."""
    grouping, packed = WAYS[way]
    lengths = np.array([len(s.mask) + (image_tokens - 1) * s.has_image for s in made])
    has_images = np.array([s.has_image for s in made])
    order = SampleOrder(
        lengths, has_images, global_batch_size=batch, seed=DEFAULT_SEED, end=len(made),
        grouping=cast(Any, grouping),
    )  # fmt: skip
    total = position = 0
    while position < len(made):
        chosen = order.step(position)
        position += len(chosen)
        rows = [[int(i)] for i in chosen]
        if packed:
            kinds = (chosen[has_images[chosen]], chosen[~has_images[chosen]])
            rows = [[int(m[i]) for i in row] for m in kinds for row in pack(lengths[m], seq_len)]
            rows.sort(key=lambda row: -int(lengths[row].sum()))
        for part in deal_rows(rows, micro, 1):
            total += len(part) * max(int(lengths[row].sum()) for row in part)
    return total


def describe(made: Sequence[Made], image_tokens: int) -> dict[str, Any]:
    """Return the facts of samples that decide the time."""
    lengths = np.array([len(s.mask) + (image_tokens - 1) * s.has_image for s in made])
    return {
        "samples": len(made),
        "text_only": sum(not sample.has_image for sample in made),
        "tokens": int(lengths.sum()),
        "supervised": int(sum(sample.mask.sum() for sample in made)),
        "length_quantiles": {
            str(q): int(np.quantile(lengths, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
        },
    }
