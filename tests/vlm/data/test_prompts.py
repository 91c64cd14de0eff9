"""Turns about images -> ids, with a sentencepiece model; places of images in a question."""

from pathlib import Path

import pytest

from mobilellama.config import UserError
from mobilellama.sft.chat.tokenizer import TextStream
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.data.labels import IMAGE, encode, expand
from mobilellama.vlm.data.prompts import ImageTextTokenizer, with_places
from tests.helpers.hf_tokenizers import TEXT, write_tokenizer

ASKED, SAID = Turn("user", "<image>\nWhat is it?"), Turn("assistant", "A bus.")


@pytest.fixture
def tokenizer(small_tokenizer: Path) -> ImageTextTokenizer:
    return ImageTextTokenizer(
        Tokenizer(small_tokenizer),
        read_template("vicuna_v1"),
        image_tokens=4,
        context_tokens=256,
    )


def test_a_prompt_is_the_beginning_of_the_sample_that_was_trained_on(
    tokenizer: ImageTextTokenizer, small_tokenizer: Path
) -> None:
    sample = encode(tokenizer.template, Tokenizer(small_tokenizer), [ASKED, SAID])
    ids = tokenizer.ids([ASKED])
    assert ids == sample.ids[: len(ids)].tolist()
    assert sample.supervised.argmax() == len(ids)  # the answer begins where the prompt ends
    assert tokenizer.prompt([ASKED]) == expand(sample.ids, 4)[: len(ids) + 3].tolist()


def test_an_image_counts_as_the_tokens_that_it_becomes(tokenizer: ImageTextTokenizer) -> None:
    two = Turn("user", "<image> or <image>?")
    ids = tokenizer.ids([two])
    assert ids.count(IMAGE) == 2
    assert tokenizer.tokens(ids) == len(tokenizer.expand(ids)) == len(ids) + 2 * 3
    assert tokenizer.expand(ids).count(IMAGE) == 8


@pytest.mark.parametrize("caption", ["A brown dog runs.", "A brown dog"])
def test_a_caption_ends_at_its_line_break_also_where_a_full_stop_is_joined_with_it(
    caption: str, tmp_path: Path
) -> None:
    text = [*TEXT, *["A brown dog runs.\n"] * 9]
    folder = write_tokenizer(tmp_path / "t", "byte_level_lines", eos="<|endoftext|>", text=text)
    inner, template = open_tokenizer(folder), read_template("plain_no_bos")
    tokenizer = ImageTextTokenizer(inner, template, image_tokens=4, context_tokens=256)
    turns = [Turn("user", "<image>"), Turn("assistant", caption)]
    sample = encode(template, inner, turns)
    prompt = tokenizer.ids(turns[:1])
    assert prompt == [IMAGE]
    answer = sample.ids[1:].tolist()
    assert sample.supervised.tolist() == [False] + [True] * len(answer)
    last = ".\n" if caption.endswith(".") else "\n"
    assert inner.decode(answer[-1:]) == last
    assert (answer[-1] in tokenizer.stop.ids) == (last == "\n")
    assert [tokenizer.ended(answer[:n]) for n in range(1, len(answer) + 1)] == [
        *[False] * (len(answer) - 1), True
    ]  # fmt: skip
    assert tokenizer.text(answer) == caption
    stream = TextStream(tokenizer)
    assert "".join(map(stream.add, answer)) + stream.end() == caption


def test_a_system_text_has_no_image(tokenizer: ImageTextTokenizer) -> None:
    with pytest.raises(UserError, match="<image> stands in the system text, which has no image"):
        tokenizer.ids([Turn("system", "Look at <image>."), ASKED])


def test_embeddings_without_a_token_give_no_text(
    tokenizer: ImageTextTokenizer, small_tokenizer: Path
) -> None:
    ids = tokenizer.ids([Turn("user", "A bus.")])
    text = tokenizer.decode(ids)
    assert "A bus." in text
    assert tokenizer.decode([*ids, Tokenizer(small_tokenizer).vocab_size, 831]) == text


@pytest.mark.parametrize(
    ("question", "images", "placed"),
    [
        ("What?", 0, "What?"),
        ("What?", 1, "<image>\nWhat?"),
        ("What?", 2, "<image>\n<image>\nWhat?"),
        ("Is <image> like <image>?", 2, "Is <image> like <image>?"),
    ],
)
def test_a_question_has_a_place_for_each_image(question: str, images: int, placed: str) -> None:
    assert with_places(question, images) == placed


def test_a_question_with_other_places_than_images_is_refused() -> None:
    with pytest.raises(UserError, match="the question has 1 <image> for 2 images"):
        with_places("Is <image> it?", 2)
