"""Chatting about images: what is shown when, by file or address, and what is refused."""

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mobilellama.config import DataError, UserError
from mobilellama.pretrain.generation.sampling import Sampling
from mobilellama.sft.chat.chat import visible
from mobilellama.sft.chat.dialogue import Exchange
from mobilellama.vlm.chat.assistant import Assistant, load
from mobilellama.vlm.chat.chat import Config
from mobilellama.vlm.chat.image_dialogue import ImageDialogue
from mobilellama.vlm.chat.image_source import download, open_image
from mobilellama.vlm.data.labels import IMAGE
from tests.pretrain.conftest import Command, Outcome
from tests.vlm.helpers.assistants import picture

Chat = Callable[..., Outcome]
WHAT = "What is it?"


@pytest.fixture(scope="module")
def assistant(assistant_folder: Path) -> Assistant:
    return load(assistant_folder, device="cpu")


@pytest.fixture
def dialogue(assistant: Assistant) -> ImageDialogue:
    return ImageDialogue(assistant, sampling=Sampling(), max_new_tokens=12)


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


def unheard(text: str) -> None:
    del text


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


def test_retry_asks_with_the_same_images_and_keeps_the_next_ones(
    chat: Chat, assistant: Assistant
) -> None:
    expected = assistant.answer(picture(0), WHAT, max_new_tokens=12)
    outcome = chat(WHAT, "/image 3.png", "/retry", "/undo", image=("0.png",))
    assert lines_of(outcome) == shown(expected) * 2
    notices = outcome.err.splitlines()[-3:]
    assert notices[0] == f"[took back: {WHAT}]"
    assert [notice.split()[0] for notice in notices[1:]] == ["[0.png", "[3.png"]


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


def test_an_answer_that_spells_an_images_place_is_text(
    dialogue: ImageDialogue, assistant: Assistant
) -> None:
    """And what the model says never stands for an image."""
    dialogue.exchanges.append(Exchange(WHAT, "An <image>.", "stop"))
    dialogue.show("unused", picture(0))
    assert assistant.tokenizer.ids(dialogue.turns("Which?")).count(IMAGE) == 1
    assert dialogue.ask("Which?", write=unheard).finish in ("stop", "length")


def test_a_full_context_says_how_many_images_it_forgets(chat: Chat) -> None:
    """About 60 tokens an exchange with an image of 16, of a context of 256."""
    lines = [part for n in range(6) for part in (f"/image {n}.png", f"{n} what is it and why?")]
    outcome = chat(*lines)
    assert outcome.code == 0
    assert "[the context is full: the 1 oldest left out, and with them 1 of the images]" in (
        outcome.err
    )


def test_too_many_images_for_the_context_are_told(dialogue: ImageDialogue) -> None:
    for number in range(12):
        dialogue.show("unused", picture(number))
    with pytest.raises(UserError, match="shorten it, or the system text, or attach less"):
        dialogue.ask(WHAT, write=unheard)
    assert len(dialogue.pending) == 12
    dialogue.reset()
    assert dialogue.ask(WHAT, write=unheard).answer


def test_images_that_cannot_be_had_are_named(chat: Chat, pictures: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes((pictures / "0.png").read_bytes()[:50])
    for image, message in (("absent.png", "absent.png: is not there"),
                           (str(torn), f"{torn}: is truncated or damaged"),
                           ("ftp://there/a.png", "is no http or https address")):  # fmt: skip
        outcome = chat(WHAT, image=("0.png", image))
        assert outcome.code == 2 and message in outcome.err and outcome.out == ""
        talked = chat(f"/image {image}", WHAT)
        assert talked.code == 0 and message in talked.err and talked.out == chat(WHAT).out
    assert "[/image needs a file or an address]" in chat("/image").err
    assert "/image   FILE_OR_URL" in chat("/help").err
    assert "did you mean '/image'" in chat("/imag 0.png").err


class Site:
    """A web server on this machine; `pages` are its answers by path."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.pages.get(self.path, lambda handler: handler.send_error(404))(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def page(self, path: str, content: bytes, *, code: int = 200, **headers: str) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(code)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)

        self.pages[path] = answer
        return f"{self.url}{path}"

    def slow_page(self, path: str, size_bytes: int = 70_000) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.end_headers()
            try:
                for _ in range(100):
                    handler.wfile.write(bytes(size_bytes))
                    time.sleep(0.05)
            except OSError:
                pass  # who asked has left

        self.pages[path] = answer
        return f"{self.url}{path}"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Site()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_address_shows_what_the_file_shows(chat: Chat, site: Site, pictures: Path) -> None:
    url = site.page("/a.png", (pictures / "3.png").read_bytes())
    moved = site.page("/moved", b"", code=302, Location="/a.png")
    expected = chat(WHAT, image=("3.png",)).out
    assert chat(WHAT, image=(url,)).out == expected
    assert chat(f"/image {moved}", WHAT).out == expected
    assert site.asked == ["/a.png", "/moved", "/a.png"]


def test_an_address_that_gives_no_image_is_named(site: Site) -> None:
    page = site.page("/page.html", b"<html>no image</html>")
    for url, message in (
        (f"{site.url}/absent", "/absent: the server answers 404 Not Found. Check the address"),
        (page, "/page.html: is no image that Pillow knows"),
        (site.page("/empty", b""), "/empty: is empty"),
        (site.page("/round", b"", code=302, Location="/round"), "/round: cannot be had"),
        (site.page("/out", b"", code=302, Location="file:///etc/passwd"), "/out: cannot be had"),
        ("http://127.0.0.1:1/a.png", "a.png: cannot be had"),
        ("https://", "cannot be had"),
    ):
        with pytest.raises(DataError) as caught:
            open_image(url)
        assert message in str(caught.value), url


def test_an_answer_too_large_or_too_slow_is_left(site: Site) -> None:
    large = site.page("/large", bytes(300_000))
    assert len(download(large)) == 300_000
    with pytest.raises(DataError, match=r"/large: is larger than 0 MB\. Give a smaller image"):
        download(large, most_bytes=299_999)
    started_s = time.monotonic()
    with pytest.raises(DataError, match=r"/slow: takes longer than 0\.3 s"):
        download(site.slow_page("/slow"), within_s=0.3)
    with pytest.raises(DataError, match=r"/drip: takes longer than 0\.3 s"):
        download(site.slow_page("/drip", size_bytes=1), within_s=0.3)
    assert time.monotonic() - started_s < 2


def test_an_answer_packed_against_the_request_is_left(site: Site) -> None:
    """Unpacking could hold bytes back, or make much of few."""
    url = site.page("/packed", b"\x1f\x8b", code=200, **{"Content-Encoding": "gzip"})
    with pytest.raises(DataError, match=r"/packed: is packed by the server \(gzip\)"):
        download(url)


def test_a_long_address_is_cut_in_messages(site: Site) -> None:
    with pytest.raises(DataError, match="the server answers 404 Not Found") as caught:
        download(f"{site.url}/{'x' * 3000}")
    assert len(str(caught.value)) < 300


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
