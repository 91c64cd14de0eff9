"""Finetuning on packed rows beside the same conversations padded, in one run.

    packed              rows of `seq_len` tokens, several conversations each: as 'sft run' trains
    padded to seq_len   one conversation a row, as the original's code pads them (FastChat's
                        padding="max_length")
    the same, in full   the same with attention over each row's whole square and the head at every
                        position: the original without flash-attention, which spares padding the
                        attention and nothing else
    padded to longest   one conversation a row, each batch as long as its longest conversation

All four train the same model, with the same engine, on the same conversations, once each.
Lengths follow ShareGPT's, roughly, and are split at `seq_len` as 'sft prepare' splits them; the
few that are trained on stand at even distances in the order of lengths of many. A batch is 16
rows, as the original's scripts have on each GPU.

Predicted is that time goes with the positions that are computed, padding or not: packed is faster
by the inverse of a padded row's mean fill. Two things pull at that: the head is computed for
supervised tokens alone, equally many in three of the four (towards 1), and a row's padding attends
to itself like a conversation of that length (away from 1).

    python benchmarks/packing_throughput.py --output benchmarks/results/packing_throughput.json
"""

import random
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paired
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilellama import log as logs
from mobilellama.commandline.parser import parse_config
from mobilellama.distributed import World, close
from mobilellama.distributed_config import DistributedConfig
from mobilellama.files.atomic import sha256_of_file
from mobilellama.pretrain.build_engine import build_engine
from mobilellama.pretrain.data import MixedBatches, Sample
from mobilellama.pretrain.engines.engine import Engine
from mobilellama.pretrain.model import build_on
from mobilellama.pretrain.optimizer import parameter_groups
from mobilellama.pretrain.optimizers.kind import open_optimizer
from mobilellama.pretrain.run import new_weights
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.loading import load_first_values
from mobilellama.pretrain.training_data import open_data
from mobilellama.sft.config import Config
from mobilellama.sft.data.packing import pack
from mobilellama.sft.row_inputs import RowInputs
from mobilellama.shards.dataset import Identity, Receipt
from mobilellama.shards.format import write_index
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.packing import Packing
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.rows import Rows

SYSTEM_TOKENS, FRAME_TOKENS, TOKENS_OF_A_WORD = 35, 5, 1.7
LAW_CONVERSATIONS = 20_000
"""Whose lengths the prediction is made from, and the measured parts are picked from."""


class FullInputs(RowInputs):
    """Rows of one conversation without positions: the model then spares padding nothing."""

    def stack(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Return input_ids and labels, each (samples, seq_len) int64."""
        inputs = super().stack(samples)
        del inputs["position_ids"]  # what follows an answer changes no loss: attention is causal
        return inputs


class LongestInputs:
    """Rows padded to the longest of their batch."""

    def supervised_tokens(self, samples: Iterable[Sample], count: int) -> int:
        """Return how many of the samples' tokens are supervised."""
        return RowInputs(seq_len=1, pad_id=0).supervised_tokens(samples, count)

    def stack(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Return input_ids, labels and position_ids, each (samples, longest) int64."""
        return RowInputs(seq_len=longest(samples), pad_id=0).stack(samples)


def longest(samples: Sequence[Sample]) -> int:
    """Return the tokens of the longest row."""
    lengths = [sample[0].span(sample[1]).length for sample in samples if sample is not None]
    return max(lengths, default=1)


def make_masks(conversations: int, *, seed: int, seq_len: int) -> list[NDArray[np.uint8]]:
    """Return a mask for each part of made conversations, 1 where a token is supervised.

    A median question of 20 words, a median answer of 110 with a long tail, two exchanges at the
    median with a long tail too. An exchange that does not fit into `seq_len` begins a new part.
    """
    rng = random.Random(seed)
    parts: list[list[int]] = []
    for _ in range(conversations):
        parts.append([0] * SYSTEM_TOKENS)
        for _ in range(min(60, max(1, round(rng.lognormvariate(0.8, 0.9))))):
            question, answer = (
                FRAME_TOKENS + round(TOKENS_OF_A_WORD * words * rng.lognormvariate(0, sigma))
                for words, sigma in ((20, 1.1), (110, 0.9))
            )
            exchange = [0] * question + [1] * answer
            if len(parts[-1]) > SYSTEM_TOKENS and len(parts[-1]) + len(exchange) > seq_len:
                parts.append([0] * SYSTEM_TOKENS)
            parts[-1] += exchange
    return [np.array(part[:seq_len], np.uint8) for part in parts]


def pick(masks: Sequence[NDArray[np.uint8]], parts: int) -> list[NDArray[np.uint8]]:
    """Return so many, at even distances in the order of their lengths."""
    by_length = sorted(masks, key=len)
    return [by_length[int((i + 0.5) * len(masks) / parts)] for i in range(parts)]


def write_rows(
    folder: Path,
    masks: Sequence[NDArray[np.uint8]],
    rows: Sequence[Sequence[int]],
    *,
    seq_len: int,
    vocab_size: int,
) -> Path:
    """Write a dataset whose rows hold these conversations, with random ids; return the folder."""
    identity = Identity(
        tokenizer_sha256="0" * 64, vocab_size=vocab_size, eos_id=2, dtype="uint16", seed=0,
        slice_bytes=0, heldout_share=0.0, encoder_version=0, packing=Packing(seq_len=seq_len),
    )  # fmt: skip
    stem = folder / "conversations/00000"
    stem.parent.mkdir(parents=True)
    mask = np.concatenate([masks[i] for row in rows for i in row])
    lengths = np.array([len(masks[i]) for row in rows for i in row])
    ids = np.random.default_rng(0).integers(vocab_size, size=len(mask))
    ids.astype("<u2").tofile(stem.with_suffix(".bin"))
    mask.tofile(stem.with_suffix(".mask"))
    with open(stem.with_suffix(".idx"), "wb") as file:
        write_index(file, lengths, "uint16", np.cumsum([0, *map(len, rows)]))
    receipt = Receipt(
        subset="conversations", bucket=0, source="made", start=0, end=len(masks), unit="rows",
        documents=len(lengths), tokens=len(mask), train_tokens=len(mask), bytes_in=0,
        records=len(masks), bad_records=0, empty_texts=0, replaced_surrogates=0,
        sha256={end: sha256_of_file(Path(f"{stem}.{end}")) for end in ("bin", "idx", "mask")},
        identity_sha256=identity.sha256,
        counts={"rows": len(rows), "train_rows": len(rows)},
    )  # fmt: skip
    write_dataset(folder, identity, [receipt])
    return folder


class PackedEpoch:
    """Trains on every row of a dataset once, when called."""

    def __init__(
        self, engine: Engine, config: Config, inputs: RowInputs | LongestInputs, model: ModelConfig
    ) -> None:
        data = open_data(
            config, TokenDataset(config.data.path), inputs, seq_len=model.max_seq_len,
            vocab_size=model.vocab_size,
        )  # fmt: skip
        view = data.views["conversations"]
        assert isinstance(view, Rows)
        self._engine, self._rows = engine, len(view)
        self._batches = MixedBatches(
            data.mixture, data.views, inputs, rank=0, world_size=1, end=len(view),
            global_batch_size=config.train.global_batch_size,
            micro_batch_size=config.train.micro_batch_size,
        )  # fmt: skip
        self.num_tokens = self.supervised = self.steps = 0

    def __call__(self) -> None:
        """Train; count what went through the model."""
        self.num_tokens = self.supervised = self.steps = position = 0
        while position < self._rows:
            batch = self._batches.at(position)
            (micro,) = batch.micro_batches
            # The empty rows of the last step, of which a run has one in thousands, are left out.
            inputs = {name: value[: batch.num_samples] for name, value in micro.inputs.items()}
            sums = self._engine.forward(inputs, last=True)
            self._engine.backward(sums.loss_sum / batch.supervised_tokens)
            self._engine.step(0.01)
            self.num_tokens += inputs["input_ids"].numel()
            position += batch.num_samples
            self.supervised += batch.supervised_tokens
            self.steps += 1


def make_config(dataset: Path, options: Any) -> Config:
    """Return finetuning's config on a dataset, all fields but these as they are by default."""
    fields = {
        "init": "-", "data.path": dataset, "run.folder": dataset, "engine.kind": options.engine,
        "engine.precision": "fp32", "train.global_batch_size": options.batch,
        "train.micro_batch_size": options.batch,
    }  # fmt: skip
    argv = [part for name, value in fields.items() for part in (f"--{name}", str(value))]
    return parse_config(Config, argv, prog="packing_throughput", about="")


def predict(masks: Sequence[NDArray[np.uint8]], seq_len: int) -> dict[str, float]:
    """Return how full padded and packed rows are, and what the ratio should therefore be."""
    lengths = [len(mask) for mask in masks]
    tokens, rows = sum(lengths), len(pack(lengths, seq_len))
    return {
        "mean_fill_padded_to_seq_len": round(tokens / (len(lengths) * seq_len), 4),
        "mean_fill_packed": round(tokens / (rows * seq_len), 4),
        "padded_to_seq_len / packed": round(len(lengths) / rows, 3),
    }


def main() -> None:
    """Measure and save."""
    options = paired.arguments(
        __doc__, parts=42, seq_len=2048, batch=16, rounds=3, width=128, layers=4,
        engine="ddp", seed=0,
    )  # fmt: skip
    logs.configure(rank=1)  # no INFO lines
    model_config = ModelConfig(
        vocab_size=4096, d_model=options.width, n_layers=options.layers,
        n_heads=options.width // 64, d_ff=options.width * 11 // 4, max_seq_len=options.seq_len,
        attention="per_document",
    )  # fmt: skip
    law = make_masks(LAW_CONVERSATIONS, seed=options.seed, seq_len=options.seq_len)
    masks = pick(law, options.parts)
    world = World(DistributedConfig(accelerator="cpu", devices=1))
    with tempfile.TemporaryDirectory() as scratch:
        write = partial(
            write_rows, masks=masks, seq_len=options.seq_len, vocab_size=model_config.vocab_size
        )
        packed = write(Path(scratch, "packed"), rows=pack([*map(len, masks)], options.seq_len))
        padded = write(Path(scratch, "padded"), rows=[[i] for i in range(len(masks))])
        config = make_config(packed, options)
        model = build_on(
            torch.device("cpu"), model_config, loss_chunk_tokens=config.train.loss_chunk_tokens,
            gradient_checkpointing=False, adapt=None,
        )  # fmt: skip
        groups = parameter_groups(model.named_parameters(), config.optimizer)
        optimizer = open_optimizer(config.optimizer)
        engine = build_engine(model, groups, optimizer, config, world, "fp32")
        load_first_values(model, engine, new_weights(model, seed=0))
        whole = RowInputs(seq_len=options.seq_len, pad_id=0)
        epochs = {
            "packed": PackedEpoch(engine, config, whole, model_config),
            "padded to seq_len": PackedEpoch(
                engine, make_config(padded, options), whole, model_config
            ),
            "padded to seq_len, in full": PackedEpoch(
                engine,
                make_config(padded, options),
                FullInputs(seq_len=options.seq_len, pad_id=0),
                model_config,
            ),
            "padded to longest": PackedEpoch(
                engine, make_config(padded, options), LongestInputs(), model_config
            ),
        }
        measured = paired.measure(epochs, rounds=options.rounds)
    tokens = sum(map(len, masks))
    supervised = sum(int(mask.sum()) for mask in masks)
    for name, epoch in epochs.items():
        assert epoch.supervised == supervised, name  # the same work, or no ratio
        seconds = measured[name]["median_cpu_s"]
        measured[name] |= {
            "steps": epoch.steps,
            "positions": epoch.num_tokens,
            "predicted_ratio": round(epoch.num_tokens / epochs["packed"].num_tokens, 4),
            "supervised_tokens_per_cpu_s": round(supervised / seconds, 1),
            "tokens_per_cpu_s": round(tokens / seconds, 1),
        }
    paired.save(
        {
            "what": "CPU seconds to train on the same conversations once, and as ratio to packed",
            "options": paired.settings(options),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "conversations": {"parts": len(masks), "tokens": tokens, "supervised": supervised},
            "predicted": {
                "these conversations": predict(masks, options.seq_len),
                "all that they were picked from": predict(law, options.seq_len),
            },
            "measured": measured,
        },
        options,
    )
    close()


if __name__ == "__main__":
    sys.exit(main())
