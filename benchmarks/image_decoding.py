"""Images from file to the tower's pixels, beside transformers' CLIP processor on the same files.

    ours              read_image and ImageProcessor.pixels: uint8, as training's workers hold them
    ours, normalised  and normalise too, which training does on the device
    ours, read only   read_image alone: the share of decoding
    transformers      Image.open and CLIPImageProcessorPil, one image a call: fp32, normalised;
                      for 'pad' after pasting onto a square, as the original code does

Each with one thread and with two (decoding and resizing let go of Python's lock), torch with one.
The files are JPEGs of quality 90, made from a seed: gradients, blocks and noise, about as many
bytes a pixel as photographs have. They lie in the page cache.

Expected after a trial with a few images is that ours takes 0.6 of transformers' CPU time where an
image is resized, which both do with Pillow and which is most of the work: transformers also copies
it as an array twice, scales it in fp64 and resizes what it then crops away. Where nothing is
resized, 0.3.

    python benchmarks/image_decoding.py --output benchmarks/results/image_decoding.json
"""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import paired
import PIL
import torch
from PIL import Image
from transformers import __version__ as version
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mobilellama.vlm.data.images import AspectRatio, ImageProcessor, read_image

SIZE_PIXELS = 336
CASES: tuple[tuple[int, int, AspectRatio], ...] = (
    (640, 480, "square"),
    (640, 480, "pad"),
    (336, 336, "square"),
)
THREADS = (1, 2)


def main() -> None:
    options = paired.arguments(__doc__, images=200, rounds=7)
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for width, height, aspect_ratio in CASES:
            paths = make_photographs(Path(folder), width, height, options.images)
            kib = sum(path.stat().st_size for path in paths) / len(paths) / 1024
            results[f"{width} x {height}, {aspect_ratio}"] = {
                "kib_per_image": round(kib, 1),
                "results": measure(candidates(aspect_ratio), paths, rounds=options.rounds),
            }
    paired.save(
        {
            "what": f"JPEG files to {SIZE_PIXELS} x {SIZE_PIXELS} pixels, page cache warm; "
            "ratios are of CPU time, images_per_s of the clock",
            "settings": paired.settings(options)
            | {"pillow": PIL.__version__, "transformers": version},
            "cases": results,
        },
        options,
    )


def make_photographs(folder: Path, width: int, height: int, images: int) -> list[Path]:
    """Write images with the coarse and fine detail that photographs have, in different colours."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    paths = []
    for i in range(images):
        slopes = generator.uniform(-120, 120, (2, 3))
        values = 128 + y[..., None] * slopes[0] + x[..., None] * slopes[1]
        blocks = generator.normal(0, 25, (-(-height // 8), -(-width // 8), 3))
        values += blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        values += generator.normal(0, 5, values.shape)
        path = folder / f"{width}x{height}_{i}.jpg"
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


def candidates(aspect_ratio: AspectRatio) -> dict[str, Callable[[Path], object]]:
    """Return what each does with one file."""
    processor = ImageProcessor(size_pixels=SIZE_PIXELS, aspect_ratio=aspect_ratio)
    size = {"height": SIZE_PIXELS, "width": SIZE_PIXELS}
    clip: Any = CLIPImageProcessorPil(size={"shortest_edge": SIZE_PIXELS}, crop_size=size)

    def ours(path: Path) -> torch.Tensor:
        return torch.from_numpy(processor.pixels(read_image(path)))

    def theirs(path: Path) -> object:
        with Image.open(path) as image:
            image = image.convert("RGB")
            if aspect_ratio == "pad":
                side = max(image.size)
                canvas = Image.new(
                    "RGB", (side, side), tuple(int(v * 255) for v in clip.image_mean)
                )
                canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
                image = canvas
            return clip(image, return_tensors="pt")["pixel_values"][0]

    return {
        "transformers": theirs,
        "ours": ours,
        "ours, normalised": lambda path: processor.normalise(ours(path)),
        "ours, read only": read_image,
    }


def measure(
    works: dict[str, Callable[[Path], object]], paths: list[Path], *, rounds: int
) -> dict[str, dict[str, float]]:
    """Give all files to each candidate with each number of threads, in turn; relate CPU times."""
    names = {(work, threads): f"{work}, {threads} threads"[: -1 if threads == 1 else None]
             for threads in THREADS for work in works}  # fmt: skip
    cpu_s: dict[str, list[float]] = {name: [] for name in names.values()}
    clock_s: dict[str, list[float]] = {name: [] for name in names.values()}
    for i in range(1 + rounds):  # the first is not counted
        for (work, threads), name in list(names.items())[:: -1 if i % 2 else 1]:
            with ThreadPoolExecutor(threads) as pool:
                cpu, clock = time.process_time(), time.perf_counter()
                for _ in pool.map(works[work], paths):
                    pass
                if i:
                    cpu_s[name].append(time.process_time() - cpu)
                    clock_s[name].append(time.perf_counter() - clock)
    summary = paired.relate(cpu_s)
    for name, row in summary.items():
        row["images_per_cpu_s"] = round(len(paths) / float(np.median(cpu_s[name])), 1)
        row["images_per_s"] = round(len(paths) / float(np.median(clock_s[name])), 1)
    return summary


if __name__ == "__main__":
    main()
