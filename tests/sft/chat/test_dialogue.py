"""A conversation as the model sees it, and as it is saved."""

import json
from pathlib import Path

import pytest

from mobilellama.config import UserError
from mobilellama.pretrain.generation.decode import Finish
from mobilellama.pretrain.generation.loading import load_model
from mobilellama.pretrain.generation.sampling import Sampling
from mobilellama.sft.chat.dialogue import Dialogue, Exchange
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.chat.tokenizer import ChatTokenizer
from mobilellama.sft.main import main
from tests.sft.helpers.tiny_chat_model import (
    CONTEXT_TOKENS,
)

Message = dict[str, str]


def says(role: str, content: str) -> Message:
    return {"role": role, "content": content}


@pytest.fixture
def dialogue(tiny_chat_model: Path) -> Dialogue:
    choice = ModelChoice(model=str(tiny_chat_model), device="cpu")
    model = load_model(choice)
    return Dialogue(ChatTokenizer(choice), model, sampling=Sampling(), max_new_tokens=30)


def saved(path: Path) -> list[Message]:
    [line] = path.read_text().splitlines()
    return json.loads(line)["messages"]


def unheard(text: str) -> None:
    del text


def test_what_is_left_of_the_history_is_the_newest_that_fits(
    dialogue: Dialogue, tiny_chat_model: Path
) -> None:
    for n in range(12):
        dialogue.ask(f"{n} the file is opened", write=unheard)
    tokenizer = ChatTokenizer(ModelChoice(model=str(tiny_chat_model)))
    assert len(dialogue.exchanges) == 12

    def tokens(left_out: int) -> int:
        dialogue.left_out = left_out
        return len(tokenizer.prompt(dialogue.turns("and then")))

    dialogue.ask("and then", write=unheard)
    left_out = dialogue.left_out
    dialogue.undo()
    assert tokens(left_out) <= CONTEXT_TOKENS - 30 < tokens(left_out - 1)


def test_a_question_longer_than_the_context_is_refused_and_forgotten(dialogue: Dialogue) -> None:
    dialogue.ask("the file", write=unheard)
    with pytest.raises(UserError, match=r"makes a prompt of .* and the model's context is 256"):
        dialogue.ask("a " * 300, write=unheard)
    assert [exchange.question for exchange in dialogue.exchanges] == ["the file"]
    assert dialogue.ask("and then", write=unheard).answer


def test_a_stopped_answer_stays_as_far_as_it_came(dialogue: Dialogue, tmp_path: Path) -> None:
    whole = dialogue.ask("the file", write=unheard)
    dialogue.reset()
    shown: list[str] = []
    cut = dialogue.ask("the file", write=shown.append, interrupted=lambda: len(shown) >= 4)
    assert cut.finish == "cut"
    assert "".join(shown).strip() == cut.answer
    assert cut.answer != whole.answer
    assert whole.answer.startswith(cut.answer)
    none = dialogue.ask("and then", write=shown.append, interrupted=lambda: True)
    assert (none.finish, none.answer) == ("cut", "")
    assert [exchange.answer for exchange in dialogue.exchanges] == [cut.answer]


def test_a_saved_chat_marks_every_answer_without_its_end(
    dialogue: Dialogue, tmp_path: Path
) -> None:
    shown: list[str] = []
    dialogue.exchanges.append(Exchange("Hi", "Hello!", "stop"))
    cut = dialogue.ask("the file", write=shown.append, interrupted=lambda: len(shown) >= 4)
    full = dialogue.ask("and then", write=unheard)
    assert (cut.finish, full.finish) == ("cut", "length")
    dialogue.exchanges.append(Exchange("Thanks", "You are welcome.", "stop"))
    dialogue.set_system("Be kind.")
    dialogue.save(tmp_path / "saved.json")
    assert saved(tmp_path / "saved.json") == [
        says("system", "Be kind."),
        says("user", "Hi"),
        says("assistant", "Hello!"),
        says("user", "the file"),
        says("assistant", cut.answer) | {"cut": True},
        says("user", "and then"),
        says("assistant", full.answer) | {"cut": True},
        says("user", "Thanks"),
        says("assistant", "You are welcome."),
    ]


def test_of_a_saved_chat_only_what_precedes_an_unfinished_answer_is_learnt(
    dialogue: Dialogue, small_tokenizer: Path, tmp_path: Path
) -> None:
    finishes: list[Finish] = ["stop", "length", "stop"]
    chats = {"whole.jsonl": finishes[:1], "saved.jsonl": finishes, "none.jsonl": finishes[1:]}
    (tmp_path / "chats").mkdir()
    for name, those in chats.items():
        dialogue.exchanges = [Exchange(f"Ask {n}", "An answer.", f) for n, f in enumerate(those)]
        dialogue.save(tmp_path / "chats" / name)
    assert (
        main(["prepare", "--data.path", str(tmp_path / "chats"), "--output", str(tmp_path / "out"),
              "--tokenizer", str(small_tokenizer), "--seq_len", "256", "--workers", "1",
              "--heldout_share", "0"])
        == 0
    )  # fmt: skip
    none, cut, whole = (
        [(tmp_path / f"out/conversations/0000{i}.{end}").read_bytes() for end in ("bin", "mask")]
        for i in range(3)  # in byte order of the names
    )
    assert none == [b"", b""]
    assert cut == whole != none
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["dropped"] == {"unfinished": {
        "count": 1, "meaning": "begins with an answer that is marked as cut short",
        "examples": [{"place": "none.jsonl:1", "detail": "An answer."}],
    }}  # fmt: skip
    assert report["mended"] == {"unfinished": {
        "count": 1, "meaning": "an answer that is marked as cut short left out, with all after it",
        "examples": [{"place": "saved.jsonl:1", "detail": "Ask 0"}],
    }}  # fmt: skip
