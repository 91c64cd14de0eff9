"""Chatting about images: what is shown when, by file or address, and what is refused."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilellama.pretrain.generation.sampling import Sampling
from mobilellama.sft.chat.chat import visible
from mobilellama.vlm.chat.assistant import Assistant
from mobilellama.vlm.chat.chat import Config
from tests.pretrain.conftest import Command, Outcome
from tests.vlm.helpers.assistants import picture
from tests.vlm.helpers.image_site import Site

Chat = Callable[..., Outcome]
WHAT = "What is it?"


@pytest.fixture
def chat(
    command: Command, assistant_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> Chat:
    """Runs the command with lines on its input, greedily; images are names in `pictures`."""

    def run(*lines: str, image: tuple[str, ...] = (), **fields: object) -> Outcome:
        data = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        monkeypatch.chdir(pictures)
        given = {"model": assistant_folder, "device": "cpu", "temperature": 0, "max_new_tokens": 12}
        arguments = [
            part for name, value in (given | fields).items() for part in (f"--{name}", value)
        ]
        return command("vlm", "chat", *arguments, *(["--image", *image] if image else []))

    return run


def saved(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())


def shown(answer: str) -> list[str]:
    return [line.rstrip() for line in visible(answer).split("\n")]


def lines_of(outcome: Outcome) -> list[str]:
    return [line.rstrip() for line in outcome.out.splitlines()]


def test_images_of_the_command_line_go_with_the_first_question(
    chat: Chat, assistant: Assistant
) -> None:
    for image in (("0.png",), ("3.png",), ("3.png", "0.png"), ()):
        pixels = [picture(int(name[0])) for name in image]
        expected = assistant.answer(pixels, WHAT, max_new_tokens=12)
        outcome = chat(WHAT, image=image)
        assert outcome.code == 0
        assert lines_of(outcome) == shown(expected)


def test_images_stay_with_their_questions_as_the_conversation_goes_on(
    chat: Chat, assistant: Assistant, tmp_path: Path
) -> None:
    from mobilellama.sft.data.conversation import Turn

    path = tmp_path / "saved.json"
    outcome = chat(WHAT, "And this?", "/image 4.png", "/image 5.png", "Which?", f"/save {path}",
                   image=("1.png",))  # fmt: skip
    assert outcome.code == 0
    turns: list[Turn] = []
    numbers: list[int] = []
    for question, its in ((WHAT, [1]), ("And this?", []), ("Which?", [4, 5])):
        numbers += its
        turns.append(Turn("user", "<image>\n" * len(its) + question))
        [answer] = assistant.decode(
            [assistant.tokenizer.prompt(turns)],
            [assistant.pixels(picture(number)) for number in numbers],
            limits=[12], sampling=Sampling(), seeds=[None],
        )  # fmt: skip
        turns.append(Turn("assistant", assistant.tokenizer.text(answer.ids)))
    found = saved(path)
    assert found["image"] == ["1.png", "4.png", "5.png"]
    assert isinstance(found["messages"], list)
    assert [(m["role"], m["content"]) for m in found["messages"]] == [
        (turn.role, turn.content) for turn in turns
    ]
    assert "[5.png (20 x 16) goes with your next question]" in outcome.err
    answers = [line for turn in turns[1::2] for line in shown(turn.content)]
    assert lines_of(outcome) == answers


def test_retry_asks_with_the_same_images_and_keeps_the_next_ones(
    chat: Chat, assistant: Assistant
) -> None:
    expected = assistant.answer(picture(0), WHAT, max_new_tokens=12)
    outcome = chat(WHAT, "/image 3.png", "/retry", "/undo", image=("0.png",))
    assert lines_of(outcome) == shown(expected) * 2
    notices = outcome.err.splitlines()[-3:]
    assert notices[0] == f"[took back: {WHAT}]"
    assert [notice.split()[0] for notice in notices[1:]] == ["[0.png", "[3.png"]


def test_a_typed_place_of_an_image_is_refused_and_the_chat_goes_on(
    chat: Chat, assistant: Assistant
) -> None:
    outcome = chat("<image> what?", WHAT, "/system See <image>.", image=("0.png",))
    assert "[<image> stands for an image: leave it out, and show one with /image]" in outcome.err
    assert "[<image> stands in the system text, which has no image]" in outcome.err
    expected = assistant.answer(picture(0), WHAT, max_new_tokens=12)
    assert lines_of(outcome) == shown(expected)
    refused = chat(WHAT, system="See <image>.")
    assert refused.code == 2
    assert refused.err.startswith("mobilellama: error: system = See <image>.: <image> stands in")


def test_a_full_context_says_how_many_images_it_forgets(chat: Chat) -> None:
    """About 60 tokens an exchange with an image of 16, of a context of 256."""
    lines = [part for n in range(6) for part in (f"/image {n}.png", f"{n} what is it and why?")]
    outcome = chat(*lines)
    assert outcome.code == 0
    assert "[the context is full: the 1 oldest are left out, and with them 1 of the images]" in (
        outcome.err
    )


def test_images_that_cannot_be_had_are_named(chat: Chat, pictures: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes((pictures / "0.png").read_bytes()[:50])
    for image, message in (("absent.png", "absent.png: is not there"),
                           (str(torn), f"{torn}: is truncated or damaged"),
                           ("ftp://there/a.png", "is not an http or https address")):  # fmt: skip
        outcome = chat(WHAT, image=("0.png", image))
        assert outcome.code == 2 and message in outcome.err and outcome.out == ""
        assert f"mobilellama: error: --image {image}: " in outcome.err
        talked = chat(f"/image {image}", WHAT)
        assert talked.code == 0 and message in talked.err and talked.out == chat(WHAT).out
    assert "[/image needs a file or an address]" in chat("/image").err
    assert "/image   FILE_OR_URL" in chat("/help").err
    assert "did you mean '/image'" in chat("/imag 0.png").err


def test_an_address_shows_what_the_file_shows(chat: Chat, site: Site, pictures: Path) -> None:
    url = site.page("/a.png", (pictures / "3.png").read_bytes())
    moved = site.page("/moved", b"", code=302, Location="/a.png")
    expected = chat(WHAT, image=("3.png",)).out
    assert chat(WHAT, image=(url,)).out == expected
    assert chat(f"/image {moved}", WHAT).out == expected
    assert site.asked == ["/a.png", "/moved", "/a.png"]


def test_without_options_the_likeliest_token_is_taken_as_the_original_does(
    chat: Chat, assistant: Assistant, assistant_folder: Path
) -> None:
    """MobileVLM's inference: temperature 0, no nucleus, 512 tokens."""
    config = Config(model=str(assistant_folder))
    assert (config.temperature, config.top_p, config.top_k) == (0.0, 1.0, None)
    assert (config.repetition_penalty, config.max_new_tokens) == (1.0, 512)
    outcome = chat(WHAT, image=("3.png",), temperature=config.temperature)
    expected = assistant.answer(picture(3), WHAT, max_new_tokens=12)
    assert lines_of(outcome) == shown(expected)
