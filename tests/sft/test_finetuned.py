"""A checkpoint of finetuning, opened: what trained, its template, and what it began from."""

from pathlib import Path

import pytest
import torch

from mobilellama.config import ConfigError
from mobilellama.sft.finetuned import open_finetuned

MADE = Path(__file__).parents[1] / "fixtures/made_by_22bff75"
RUN = str(MADE / "chat_run")


def test_a_runs_newest_checkpoint_is_opened_with_its_own_tokenizer_and_template() -> None:
    found = open_finetuned(RUN)
    assert found.checkpoint.manifest.step == 2 and found.run is not None
    assert found.run.path == MADE / "chat_run"
    assert (found.lora.rank, found.lora.alpha) == (2, 4)
    assert found.template.name == "template" and found.tokenizer.vocab_size == 400
    assert found.base is None  # it began from out/model, which is not here
    assert open_finetuned(RUN, template="vicuna_v1").template.name == "vicuna_v1"


def test_merged_weights_have_plain_names_and_give_the_logits_of_base_plus_adapter() -> None:
    found = open_finetuned(RUN)
    assert not [name for name in found.weights.names() if "lora" in name]
    assert [name for name in found.trained.names() if "lora" in name]
    logits = found.unmerged_logits()
    assert logits.shape[0] == 1 and logits.shape[2] == found.model.vocab_size
    assert torch.isfinite(logits).all()


def test_a_run_of_another_stage_and_what_is_no_run_are_refused_by_field(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^model = .*run: was written by 'mobilellama pretrain run'"
    ):
        open_finetuned(str(MADE / "run"), field="model")
    with pytest.raises(ConfigError, match=r"^checkpoint = .*is neither a checkpoint nor a run's"):
        open_finetuned(str(tmp_path))
