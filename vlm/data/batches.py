"""From a position in the run to this rank's micro-batches of texts and images.

A row is one sample, or with packing as many as fit; a micro-batch is rows padded to its longest
and the images of all of them, decoded here, in the reader threads that are ahead of the loop.
Packing rearranges the samples of a step and changes none of them: the loss is the same but for
rounding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilellama.config import DataError, one_line
from mobilellama.pretrain.data import MicroBatch, StepBatch, positions_in_documents
from mobilellama.pretrain.linear_cross_entropy import IGNORED
from mobilellama.sft.data.packing import pack
from mobilellama.vlm.data.images import ImageError, ImageProcessor, read_image
from mobilellama.vlm.data.labels import IMAGE, expand
from mobilellama.vlm.data.order import SampleOrder, deal_rows
from mobilellama.vlm.data.records import image_path
from mobilellama.vlm.data.samples import Sample, Samples

GROUPS = ("image", "text")
"""The losses are told apart by whether a sample has an image."""


class ImageTextInputs:
    """Makes the model's arguments of rows of samples."""

    def __init__(
        self,
        samples: Samples,
        images: Path,
        processor: ImageProcessor,
        *,
        image_tokens: int,
        pad_id: int,
    ) -> None:
        """Prepare.

        Args:
            samples: the tokenised records.
            images: folder that their images' paths are relative to.
            processor: makes pixels of an image.
            image_tokens: places that an image takes.
            pad_id: what rows are padded with; nothing attends to it or learns from it.
        """
        self.samples, self._images, self._processor = samples, images, processor
        self._image_tokens, self._pad_id = image_tokens, pad_id

    def stack(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Return the model's arguments for rows of samples, by number.

        ``input_ids`` and ``labels`` are (rows, longest) int64. ``position_ids``, of the same
        shape, is there where a row has several samples: it restarts at each and at the padding.
        ``pixel_values``, (images, 3, S, S) uint8, is there where there are images. An empty row
        is all padding.

        Raises:
            DataError: an image cannot be read; the message names the sample.
        """
        held = [[self.samples[i] for i in row] for row in rows]
        ids = [[expand(sample.ids, self._image_tokens) for sample in row] for row in held]
        width = max([sum(map(len, parts)) for parts in ids] + [1])
        input_ids = np.full((len(rows), width), self._pad_id, dtype=np.int64)
        labels = np.full((len(rows), width), IGNORED, dtype=np.int64)
        position_ids = np.empty_like(input_ids)
        pixels: list[NDArray[np.uint8]] = []
        for k, (row, parts) in enumerate(zip(held, ids, strict=True)):
            start = 0
            for sample, part in zip(row, parts, strict=True):
                place = slice(start, start + len(part))
                input_ids[k, place] = part
                labels[k, place] = _next_labels(sample, part, self._image_tokens)
                pixels += self._pixels(sample)
                start += len(part)
            position_ids[k] = positions_in_documents([*map(len, parts), width - start])
        stacked = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
        if any(len(row) > 1 for row in rows):
            stacked["position_ids"] = torch.from_numpy(position_ids)
        if pixels:
            stacked["pixel_values"] = torch.from_numpy(np.stack(pixels))
        return stacked

    def _pixels(self, sample: Sample) -> list[NDArray[np.uint8]]:
        places = int((sample.ids == IMAGE).sum())
        if places != len(sample.images):
            raise DataError(
                f"sample {sample.id} ({sample.place}): {places} places of images, but "
                f"{len(sample.images)} images"
            )
        made = []
        for name in sample.images:
            path = image_path(self._images, name)
            try:
                made.append(self._processor.pixels(read_image(path)))
            except (ImageError, OSError) as error:
                what = error if isinstance(error, ImageError) else f"{path}: {one_line(error)}"
                raise DataError(
                    f"sample {sample.id} ({sample.place}): {what}. Find all such images with "
                    "'mobilellama vlm check-data', and leave their samples out with "
                    "--data.leave_out"
                ) from None
        return made


def _next_labels(sample: Sample, ids: NDArray[np.int32], image_tokens: int) -> NDArray[np.int64]:
    """Return each token's label: the token after it where that one is supervised, else -100."""
    repeats = np.where(sample.ids == IMAGE, image_tokens, 1)
    supervised = np.repeat(sample.supervised, repeats)
    labels = np.full(len(ids), IGNORED, dtype=np.int64)
    labels[:-1] = np.where(supervised[1:], ids[1:], IGNORED)
    return labels


class ImageTextBatches:
    """``Batches`` of image-text samples."""

    group_names: tuple[str, ...] = GROUPS

    def __init__(
        self,
        inputs: ImageTextInputs,
        order: SampleOrder,
        *,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        row_tokens: int | None,
    ) -> None:
        """Prepare to read.

        Args:
            inputs: makes the model's arguments.
            order: the samples of each step.
            micro_batch_size: rows of a forward pass.
            rank: this process.
            world_size: all processes.
            row_tokens: tokens that samples are packed into; None: one sample a row.
        """
        self._inputs, self._order = inputs, order
        self._micro_batch_size, self._row_tokens = micro_batch_size, row_tokens
        self._rank, self._world_size = rank, world_size

    def at(self, position: int) -> StepBatch:
        """Return this rank's part of the step that begins at a position."""
        samples = self._inputs.samples
        chosen = self._order.step(position)
        parts = deal_rows(self._rows(chosen), self._micro_batch_size, self._world_size)
        return StepBatch(
            micro_batches=[
                MicroBatch(inputs=self._inputs.stack(part), groups=self._groups(part))
                for part in parts[self._rank :: self._world_size]
            ],
            supervised_tokens=int(samples.supervised[chosen].sum()),
            first_position=position,
            num_samples=len(chosen),
            tokens=int(samples.lengths[chosen].sum()),
        )

    def num_samples(self, position: int) -> int:
        """Return how many samples the step that begins at a position takes."""
        return self._order.num_samples(position)

    def steps_left(self, position: int) -> int:
        """Return the steps from a position to the run's end."""
        return self._order.steps_left(position)

    def _rows(self, chosen: NDArray[np.int64]) -> list[list[int]]:
        """Return the step's samples as rows, none of both modalities, the longest first."""
        if self._row_tokens is None:
            return [[int(i)] for i in chosen]
        lengths, has_images = self._inputs.samples.lengths, self._inputs.samples.has_images
        rows: list[list[int]] = []
        for mine in (chosen[has_images[chosen]], chosen[~has_images[chosen]]):
            rows += [[int(mine[i]) for i in row] for row in pack(lengths[mine], self._row_tokens)]
        return sorted(rows, key=lambda row: -int(lengths[row].sum()))

    def _groups(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return 0 for a row of samples with images, 1 for one without."""
        has_images = self._inputs.samples.has_images
        return torch.tensor([int(not (row and has_images[row[0]])) for row in rows])


class HeldOutSamples:
    """``HeldOut``: the samples of a validation file, by whether they have an image."""

    def __init__(self, inputs: ImageTextInputs) -> None:
        """Prepare; `inputs` makes the arguments, one sample a row."""
        self._inputs = inputs
        has_images = inputs.samples.has_images
        numbers = {"image": np.flatnonzero(has_images), "text": np.flatnonzero(~has_images)}
        self._numbers = {name: found for name, found in numbers.items() if len(found)}
        self.counts: Mapping[str, int] = {name: len(n) for name, n in self._numbers.items()}

    def stack(self, name: str, samples: Sequence[int]) -> dict[str, Tensor]:
        """Return the model's arguments for some of a modality's samples."""
        return self._inputs.stack([[int(self._numbers[name][i])] for i in samples])
