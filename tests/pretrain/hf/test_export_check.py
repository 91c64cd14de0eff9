"""The check of an export: it finds other weights and another tokenizer."""

from pathlib import Path

import pytest
import torch

from mobilellama.pretrain.hf.export_check import (
    check_logits,
    check_tokenizer,
    probe_ids,
    relative_difference,
    require_same_logits,
)
from mobilellama.pretrain.hf.export_folder import parameter_shapes
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
from mobilellama.run_folder import RunFolder
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.pretrain.helpers.trained import trained_model


def test_the_check_finds_other_weights_and_another_tokenizer(
    exports: dict[str, Path], tiny_run: Path
) -> None:
    model = trained_model(tiny_run, 4)

    def difference(step: int) -> float:
        checkpoint = Checkpoint(RunFolder(tiny_run).checkpoint(step))
        weights = CheckpointWeights(checkpoint, parameter_shapes(model.config))
        return check_logits(exports["sharded"], weights, model.config, dtype="fp32")

    assert difference(4) <= 1e-5
    with pytest.raises(RuntimeError, match="logits differ from ours by"):
        difference(2)
    tokenizer = Tokenizer(exports["bf16"] / "tokenizer.model")
    check_tokenizer(exports["bf16"], tokenizer, add_bos=True)
    with pytest.raises(RuntimeError, match="AutoTokenizer gives"):
        check_tokenizer(exports["bf16"], tokenizer, add_bos=False)


def test_the_ids_are_always_the_same_and_fit_vocabulary_and_context() -> None:
    long, short = (ModelConfig(vocab_size=50, max_seq_len=length) for length in (2048, 8))
    ids = probe_ids(long)
    assert ids.shape == (1, 64) and int(ids.min()) >= 0 and int(ids.max()) < 50
    assert torch.equal(ids, probe_ids(long))
    assert probe_ids(short).shape == (1, 8)


def test_a_difference_is_a_share_of_the_largest_expected_value() -> None:
    expected = torch.tensor([1.0, -4.0])
    assert relative_difference(torch.tensor([1.0, -3.0]), expected) == 0.25
    assert relative_difference(expected, expected) == 0.0
    # The smallest normal number stands for a largest value of 0.
    assert relative_difference(torch.zeros(2), torch.zeros(2)) == 0.0


def test_a_ten_thousandth_is_rounding_and_more_is_an_error_as_nan_is() -> None:
    expected = torch.tensor([1.0, -4.0])
    assert require_same_logits(expected + 2e-4, expected, what="w") == pytest.approx(5e-5, rel=1e-2)
    for found in (expected + 1e-3, torch.tensor([1.0, float("nan")])):
        with pytest.raises(RuntimeError, match=r"w differ from ours by .* \(tolerance 1e-04\)"):
            require_same_logits(found, expected, what="w")
