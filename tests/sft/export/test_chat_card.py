"""The card of a chat model, of a merged one and of an adapter."""

from pathlib import Path

import pytest

from mobilellama.pretrain.hf.card_parts import LastLosses
from mobilellama.sft.export.chat_card import ChatCard, Kind
from mobilellama.sft.finetuned import open_finetuned

MADE = Path(__file__).parents[2] / "fixtures/made_by_22bff75"


def card(path: Path, kind: Kind, base: str | None) -> str:
    losses = LastLosses(training={"": 2.0, "conversations": 2.0}, validation={"": 2.25})
    finetuned = open_finetuned(str(MADE / "chat_run"))
    ChatCard(
        title="tiny", license=None, kind=kind, dtype="bf16", base=base,
        finetuned=finetuned, losses=losses,
    ).write(path)  # fmt: skip
    return path.read_text()


def test_an_adapters_card_is_pefts_and_names_a_base_of_the_hub(tmp_path: Path) -> None:
    text = card(tmp_path / "README.md", "adapter", "someone/base")
    for fact in (
        "library_name: peft",
        "base_model: someone/base",
        "A LoRA adapter of rank 2 that makes a chat model of its base `someone/base`",
        "LoRA of rank 2, alpha 4, dropout 0.05 on ",
        "sft merge --adapter tiny --base someone/base --output FOLDER",
        "| all | 2.0000 | 2.2500 |",
    ):
        assert fact in text, fact


def test_an_adapters_card_pins_the_commit_of_its_base(tmp_path: Path) -> None:
    commit = "a" * 40
    text = card(tmp_path / "README.md", "adapter", f"someone/base@{commit}")
    for fact in (
        "base_model: someone/base\n",
        f'from_pretrained("someone/base", revision="{commit}")',
        f"--base someone/base@{commit} --output FOLDER",
    ):
        assert fact in text, fact


@pytest.mark.parametrize(("kind", "says"), [("merged", "merged in fp32 into"), ("model", "a fin")])
def test_a_whole_models_card_says_how_to_chat_and_no_path_of_this_machine(
    tmp_path: Path, kind: Kind, says: str
) -> None:
    base = tmp_path / "some" / "their_base"
    base.mkdir(parents=True)
    text = card(tmp_path / "README.md", kind, str(base))
    assert says in text and "`their_base`" in text and str(tmp_path) not in text
    assert "base_model" not in text and "library_name: transformers" in text
    assert "mobilellama sft chat tiny" in text
    assert "USER: QUESTION ASSISTANT: ANSWER</s>USER: NEXT ASSISTANT:" in text
