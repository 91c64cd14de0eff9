"""A small model in bf16 and batches of documents, for tests of what a GPU would be asked to do."""

from itertools import chain

import torch
from torch import Tensor

from mobilellama.pretrain.model import LanguageModel, build_on, init_parameter
from mobilellama.pretrain.sections import ModelConfig

CONFIG = ModelConfig(
    vocab_size=64, d_model=64, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=96, max_seq_len=32
)
DOCUMENTS = [[[32], [5, 27]], [[1, 30, 1], [16, 16]], [[8, 8, 8, 8], [31, 1]], [[4, 28], [32]]]
"""Of four batches: the lengths of the documents in each row."""


def model() -> LanguageModel:
    made = build_on(torch.device("cpu"), CONFIG)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(init_parameter(name, parameter.shape, CONFIG, 3))
    return made.bfloat16()


def batch(seed: int, rows: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(64, (rows, 33), generator=generator)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def positions(lengths: list[list[int]]) -> Tensor:
    return torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])


def bounds(lengths: list[list[int]]) -> Tensor:
    return torch.tensor([0, *chain.from_iterable(lengths)]).cumsum(0).to(torch.int32)


def train_on(made: LanguageModel, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return the loss and the gradients of one forward and backward pass."""
    made.zero_grad()
    loss = made(**inputs).loss_sum
    loss.backward()
    return [loss.detach(), *(x.grad.clone() for x in made.parameters() if x.grad is not None)]
