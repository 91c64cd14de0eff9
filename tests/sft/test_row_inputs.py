"""Packed rows as the model's arguments; packed training against one conversation at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mobilellama.files.atomic import sha256_of_file
from mobilellama.pretrain.model import LanguageModel, build_on, init_parameter
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.sft.row_inputs import RowInputs
from mobilellama.shards.dataset import Identity, Receipt
from mobilellama.shards.format import write_index
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.packing import Packing
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.rows import Rows

# Rows of conversations of (id, supervised) tokens.
Conversation = list[tuple[int, int]]
ROWS: list[list[Conversation]] = [
    [[(5, 0), (6, 0), (7, 1), (2, 1)], [(8, 0), (9, 0), (2, 1)]],
    [[(1, 0), (11, 0), (12, 1), (13, 1), (2, 1), (14, 0), (15, 1), (2, 1)]],
    [[(3, 0), (4, 1), (2, 1)], [(10, 0), (7, 1)], [(9, 0), (8, 0), (2, 1)]],
]
SEQ_LEN = 8


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    conversations = [one for row in ROWS for one in row]
    tokens = np.array([token for one in conversations for token in one])
    (tmp_path / "chat").mkdir()
    stem = tmp_path / "chat/00000"
    tokens[:, 0].astype("<u2").tofile(stem.with_suffix(".bin"))
    tokens[:, 1].astype(np.uint8).tofile(stem.with_suffix(".mask"))
    lengths = np.array([len(one) for one in conversations])
    with open(stem.with_suffix(".idx"), "wb") as file:
        write_index(file, lengths, "uint16", np.cumsum([0, *map(len, ROWS)]))
    identity = Identity(
        tokenizer_sha256="0" * 64, vocab_size=16, eos_id=2, dtype="uint16", seed=1, slice_bytes=0,
        heldout_share=0, encoder_version=1, packing=Packing(seq_len=SEQ_LEN),
    )  # fmt: skip
    receipt = Receipt(
        subset="chat", bucket=0, source="chat.json", start=0, end=1, unit="bytes",
        documents=len(lengths), tokens=len(tokens), train_tokens=len(tokens), bytes_in=0,
        records=0, bad_records=0, empty_texts=0, replaced_surrogates=0, identity_sha256="",
        sha256={end: sha256_of_file(Path(f"{stem}.{end}")) for end in ("bin", "idx", "mask")},
        counts={"rows": len(ROWS), "train_rows": len(ROWS)},
    )  # fmt: skip
    write_dataset(tmp_path, identity, [receipt])
    return Rows(TokenDataset(tmp_path), "chat", "train")


def test_labels_are_the_next_supervised_tokens_of_the_same_conversation(rows: Rows) -> None:
    inputs = RowInputs(seq_len=SEQ_LEN, pad_id=0)
    got = inputs.stack([(rows, 0), (rows, 1), (rows, 2), None])
    no = -100
    assert got["input_ids"].tolist() == [
        [5, 6, 7, 2, 8, 9, 2, 0],
        [1, 11, 12, 13, 2, 14, 15, 2],
        [3, 4, 2, 10, 7, 9, 8, 2],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert got["labels"].tolist() == [
        [no, 7, 2, no, no, 2, no, no],
        [no, 12, 13, 2, no, 15, 2, no],
        [4, 2, no, 7, no, no, 2, no],
        [no, no, no, no, no, no, no, no],
    ]
    assert got["position_ids"].tolist() == [
        [0, 1, 2, 3, 0, 1, 2, 0],
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 2, 0, 1, 0, 1, 2],
        [0, 1, 2, 3, 4, 5, 6, 7],
    ]
    assert all(value.dtype == torch.int64 for value in got.values())


def test_the_supervised_tokens_of_a_batch_are_those_of_its_labels(rows: Rows) -> None:
    inputs = RowInputs(seq_len=SEQ_LEN, pad_id=0)
    samples = [(rows, 0), (rows, 1), None, (rows, 2)]
    labels = inputs.stack(samples)["labels"]
    assert inputs.supervised_tokens(samples, 3) == int((labels != -100).sum()) == 3 + 5 + 4


MODEL = ModelConfig(
    vocab_size=16, d_model=32, n_layers=2, n_heads=2, d_ff=48, max_seq_len=16,
    attention="per_document",
)  # fmt: skip


def build() -> LanguageModel:
    model = build_on(torch.device("cpu"), MODEL, loss_chunk_tokens=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(init_parameter(name, parameter.shape, MODEL, seed=3))
    return model


def test_packed_loss_and_gradients_equal_those_of_one_conversation_at_a_time(rows: Rows) -> None:
    """The reference sees each conversation alone, unpadded, with torch's own cross-entropy."""
    packed = build()
    inputs = RowInputs(seq_len=SEQ_LEN, pad_id=0)
    samples = [(rows, 0), (rows, 1), (rows, 2), None]
    sums = packed(**inputs.stack(samples))
    tokens = inputs.supervised_tokens(samples, 3)
    (sums.loss_sum / tokens).backward()

    alone, total = build(), torch.tensor(0.0)
    for conversation in (one for row in ROWS for one in row):
        ids = torch.tensor([[token for token, _ in conversation]])
        logits = alone.logits(ids)[0, :-1]
        losses = F.cross_entropy(logits, ids[0, 1:], reduction="none")
        total = total + losses[torch.tensor([bool(m) for _, m in conversation[1:]])].sum()
    (total / tokens).backward()

    torch.testing.assert_close(sums.loss_sum, total)
    for (name, got), expected in zip(packed.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, msg=lambda m, n=name: f"{n}: {m}")


def test_the_loss_is_the_mean_over_supervised_tokens_computed_by_hand(rows: Rows) -> None:
    """-log p of each supervised token of row 0, from softmax of the logits written out."""
    model = build()
    inputs = RowInputs(seq_len=SEQ_LEN, pad_id=0)
    with torch.no_grad():
        sums = model(**inputs.stack([(rows, 0)]))
        first = model.logits(torch.tensor([[5, 6, 7, 2]]))[0]
        second = model.logits(torch.tensor([[8, 9, 2]]))[0]
    terms = [(first[1], 7), (first[2], 2), (second[1], 2)]
    by_hand = sum(-float(logits[t] - logits.exp().sum().log()) for logits, t in terms) / 3
    assert float(sums.loss_sum) / inputs.supervised_tokens([(rows, 0)], 1) == pytest.approx(by_hand)
    assert sums.sample_tokens.tolist() == [3]


def test_padding_and_empty_places_change_nothing(rows: Rows) -> None:
    model = build()
    short, long = (RowInputs(seq_len=n, pad_id=0) for n in (8, 16))
    with torch.no_grad():
        alone = model(**short.stack([(rows, 2)]))
        padded = model(**long.stack([None, (rows, 2), None]))
    torch.testing.assert_close(padded.loss_sum, alone.loss_sum)
    assert padded.sample_tokens.tolist() == [0, 4, 0]
