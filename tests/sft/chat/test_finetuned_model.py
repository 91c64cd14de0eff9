"""A chat's model and tokenizer: of a run as it is, without an export."""

from dataclasses import replace
from pathlib import Path

import torch

from mobilellama.pretrain.hf.fingerprint import identify
from mobilellama.sft.chat.finetuned_model import opened
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.finetuned import open_finetuned

MADE = Path(__file__).parents[2] / "fixtures/made_by_22bff75"


def test_a_run_answers_with_its_adapter_added_and_its_own_template() -> None:
    choice = ModelChoice(model=str(MADE / "chat_run"), device="cpu")
    with opened(choice) as opened_run:
        prompt = opened_run.tokenizer.prompt([Turn("user", "Hello")])
        model, dtype, sha256 = opened_run.load(), opened_run.dtype(), opened_run.sha256()
    assert prompt[0] == 1 and len(prompt) > 5
    finetuned = open_finetuned(str(MADE / "chat_run"))
    weights = finetuned.weights
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights.parameter(name)), name
    assert dtype == str(model.dtype).removeprefix("torch.") == "float32"
    with opened(choice) as again, opened(replace(choice, template="plain")) as other:
        assert sha256 == again.sha256() != other.sha256()


def test_a_folder_is_opened_as_it_is(tiny_chat_model: Path) -> None:
    with opened(ModelChoice(model=str(tiny_chat_model), device="cpu")) as model:
        assert model.tokenizer.context_tokens == 256
        assert model.load().config.hidden_size == 32
        assert model.sha256() == identify(str(tiny_chat_model))
