"""A chat's model and tokenizer: of a run as it is, without an export."""

from pathlib import Path

import torch

from mobilellama.sft.chat.chat import Config
from mobilellama.sft.chat.finetuned_model import opened
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.finetuned import open_finetuned

MADE = Path(__file__).parents[2] / "fixtures/made_by_22bff75"


def test_a_run_answers_with_its_adapter_added_and_its_own_template() -> None:
    choice = Config(model=str(MADE / "chat_run"), device="cpu")
    with opened(choice) as (tokenizer, load):
        prompt = tokenizer.prompt([Turn("user", "Hello")])
        model = load()
    assert prompt[0] == 1 and len(prompt) > 5
    finetuned = open_finetuned(str(MADE / "chat_run"))
    weights = finetuned.weights
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights.parameter(name)), name


def test_a_folder_is_opened_as_it_is(tiny_chat_model: Path) -> None:
    with opened(ModelChoice(model=str(tiny_chat_model), device="cpu")) as (tokenizer, load):
        assert tokenizer.context_tokens == 256
        assert load().config.hidden_size == 32
