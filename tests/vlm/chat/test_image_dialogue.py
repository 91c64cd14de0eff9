"""A conversation about images: what stands in the prompt as it goes on."""

import pytest

from mobilellama.config import UserError
from mobilellama.pretrain.generation.sampling import Sampling
from mobilellama.sft.chat.dialogue import Exchange
from mobilellama.vlm.chat.assistant import Assistant
from mobilellama.vlm.chat.image_dialogue import ImageDialogue
from mobilellama.vlm.data.labels import IMAGE
from tests.vlm.helpers.assistants import picture

WHAT = "What is it?"


@pytest.fixture
def dialogue(assistant: Assistant) -> ImageDialogue:
    return ImageDialogue(assistant, sampling=Sampling(), max_new_tokens=12)


def unheard(text: str) -> None:
    del text


def test_undo_gives_the_images_back_and_reset_forgets_them(dialogue: ImageDialogue) -> None:
    dialogue.show("unused", picture(0))
    first = dialogue.ask(WHAT, write=unheard)
    assert dialogue.pending == []
    assert dialogue.undo() == WHAT
    assert dialogue.ask(WHAT, write=unheard) == first
    dialogue.undo()
    dialogue.reset()
    assert dialogue.pending == []
    assert dialogue.ask(WHAT, write=unheard).answer != first.answer


def test_a_stopped_answer_gives_the_images_back(dialogue: ImageDialogue) -> None:
    dialogue.show("unused", picture(0))
    cut = dialogue.ask(WHAT, write=unheard, interrupted=lambda: True)
    assert (cut.finish, cut.answer) == ("cut", "")
    assert len(dialogue.pending) == 1 and not dialogue.exchanges


def test_an_image_is_put_through_the_tower_once(
    dialogue: ImageDialogue, assistant: Assistant
) -> None:
    counted: list[int] = []
    handle = assistant.model.projector.register_forward_pre_hook(
        lambda module, arguments: counted.append(len(arguments[0]))
    )
    try:
        dialogue.show("unused", picture(0))
        for question in (WHAT, "Why?", "And?"):
            dialogue.ask(question, write=unheard)
    finally:
        handle.remove()
    assert counted == [1]


def test_an_answer_that_spells_an_images_place_is_text(
    dialogue: ImageDialogue, assistant: Assistant
) -> None:
    """And what the model says never stands for an image."""
    dialogue.exchanges.append(Exchange(WHAT, "An <image>.", "stop"))
    dialogue.show("unused", picture(0))
    assert assistant.tokenizer.ids(dialogue.turns("Which?")).count(IMAGE) == 1
    assert dialogue.ask("Which?", write=unheard).finish in ("stop", "length")


def test_too_many_images_for_the_context_are_told(dialogue: ImageDialogue) -> None:
    for number in range(12):
        dialogue.show("unused", picture(number))
    with pytest.raises(UserError, match="Shorten it, or the system text, or attach less"):
        dialogue.ask(WHAT, write=unheard)
    assert len(dialogue.pending) == 12
    dialogue.reset()
    assert dialogue.ask(WHAT, write=unheard).answer
