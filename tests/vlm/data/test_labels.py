"""Ids and labels of conversations about images: literal ids, and LLaVA's own rules written anew."""

import random
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import ConfigError
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import encode as encode_text
from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.data.labels import IMAGE, encode, encode_prompt, expand
from tests.helpers.hostile_texts import hostile_texts

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
# SYSTEM after the begin token, and what stands around questions, in LLaMA's ids.
S = [
    *(319, 13563, 1546, 263, 12758, 1404, 322, 385, 23116, 21082, 20255, 29889),
    *(450, 20255, 4076, 8444, 29892, 13173, 29892, 322, 1248, 568, 6089, 304, 278, 1404),
    *(29915, 29879, 5155, 29889),
]
USER, ASSISTANT, END = [3148, 1001, 29901], [319, 1799, 9047, 13566, 29901], [2]
SPACE, LINE = 29871, 13


def turns(*contents: str) -> list[Turn]:
    """Return user and assistant in turn."""
    return [Turn(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]


@pytest.fixture(scope="module", params=["small_tokenizer", "llama_tokenizer"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """The model trained on the small corpus, and LLaMA's where it is present."""
    return Tokenizer(request.getfixturevalue(request.param))


def check(
    tokenizer: Tokenizer, name: str, given: list[Turn], *parts: tuple[list[int], int]
) -> None:
    """Assert ids and labels: `parts` are stretches of ids, each with whether it is supervised."""
    found = encode(read_template(name), tokenizer, given)
    assert found.ids.tolist() == [token for part, _ in parts for token in part]
    assert found.supervised.tolist() == [bool(on) for part, on in parts for _ in part]


def test_the_first_stages_ids_are_these(llama_tokenizer: Path) -> None:
    caption = [263, 2654, 3593, 373, 278, 11952, LINE]  # the line break is learnt too; no </s>
    given = turns("<image>", "a red bus on the street")
    check(Tokenizer(llama_tokenizer), "plain", given, ([1, IMAGE], 0), (caption, 1))


def test_the_second_stages_ids_are_these(llama_tokenizer: Path) -> None:
    question = [SPACE, LINE, 5618, 338, 297, 278, 7623, 29973]  # ▁ <0x0A> What ▁is ▁in ▁the ...
    check(
        Tokenizer(llama_tokenizer),
        "vicuna_v1",
        turns("<image>\nWhat is in the picture?", "A bus.", "Which colour?", "Red."),
        ([1, *S, *USER, SPACE, IMAGE, *question, *ASSISTANT], 0),
        ([319, 3593, 29889, *END], 1),
        ([*USER, 8449, 12384, 29973, *ASSISTANT], 0),
        ([4367, 29889, *END], 1),
    )


def test_two_images_ids_are_these(llama_tokenizer: Path) -> None:
    first, second = [SPACE, 29896, 29901, SPACE], [259, 29906, 29901, SPACE]  # " 1: ", " 2: "
    check(
        Tokenizer(llama_tokenizer),
        "vicuna_v1",
        turns("1: <image> 2: <image> Which is red?", "The second."),
        ([1, *S, *USER, *first, IMAGE, *second, IMAGE], 0),
        ([SPACE, 8449, 338, 2654, 29973, *ASSISTANT], 0),
        ([450, 1473, 29889, *END], 1),
    )


def test_an_image_is_no_part_of_the_texts_beside_it(tokenizer: Tokenizer) -> None:
    """With any sentencepiece model: each text is encoded by itself, with a space before it."""
    sp = tokenizer.processor
    given = turns("one <image>two", "three", "four<image><image>", "five")
    found = encode(read_template("vicuna_v1"), tokenizer, given)
    expected = [
        *([sp.bos_id()], sp.encode(f"{SYSTEM} USER: one "), [IMAGE], sp.encode("two ASSISTANT:")),
        *(tokenizer.encode(" three", begins=False), [sp.eos_id()], sp.encode("USER: four")),
        *([IMAGE, IMAGE], sp.encode(" ASSISTANT:"), tokenizer.encode(" five", begins=False)),
        [sp.eos_id()],
    ]
    assert found.ids.tolist() == [token for part in expected for token in part]
    assert found.supervised.sum() == sum(map(len, (*expected[4:6], *expected[-2:])))


def test_without_images_ids_and_labels_are_those_of_chat_models(tokenizer: Tokenizer) -> None:
    template, texts = read_template("vicuna_v1"), hostile_texts(60, seed=3)
    for i in range(0, len(texts) - 4, 4):
        given = turns(*texts[i : i + 4])
        found, expected = (make(template, tokenizer, given) for make in (encode, encode_text))
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.supervised.tolist() == expected.supervised.tolist()


# The original's rules, LLaVA's data pipeline at c121f04, which MobileVLM's is.


def original_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Cut at <image>, tokenise each part with a begin token, keep the first one's only.

    The tokenizer was the legacy one: it cut a text at </s> and gave each part to sentencepiece
    by itself.
    """
    sp = tokenizer.processor
    ids: list[int] = []
    for number, chunk in enumerate(prompt.split("<image>")):
        if number:
            ids.append(IMAGE)
        parts = chunk.split("</s>")
        tokens = [sp.bos_id()]
        for i, part in enumerate(parts):
            tokens += ([sp.eos_id()] if i else []) + sp.encode(part)
        ids += tokens[bool(number) :]
    return ids


def original_v1(tokenizer: Tokenizer, given: list[Turn]) -> tuple[list[int], list[int] | None]:
    """Return ids, and labels by offsets; None where lengths do not add up and nothing is learnt."""
    prompt = SYSTEM + " "
    for user, assistant in zip(given[::2], given[1::2], strict=True):
        prompt += f"USER: {user.content} ASSISTANT: {assistant.content}</s>"
    ids = original_ids(tokenizer, prompt)
    labels, at = ids.copy(), 1
    labels[:1] = [-100]
    for part in prompt.split("</s>"):
        halves = part.split(" ASSISTANT: ")
        if part == "" or len(halves) != 2:
            break
        whole = len(original_ids(tokenizer, part))
        instruction = len(original_ids(tokenizer, halves[0] + " ASSISTANT: ")) - 2
        labels[at : at + instruction] = [-100] * instruction
        at += whole
    return ids, labels if at == len(ids) else None


def original_plain(tokenizer: Tokenizer, given: list[Turn]) -> tuple[list[int], list[int]]:
    """Return ids and labels: all but what <image> alone tokenises to."""
    ids = original_ids(tokenizer, f"<image>{given[1].content}\n")
    masked = len(original_ids(tokenizer, "<image>"))
    return ids, [-100] * masked + ids[masked:]


def random_conversations(count: int, seed: int) -> list[list[Turn]]:
    """Return conversations of hostile and plain texts with images anywhere in their questions."""
    rng = random.Random(seed)
    hostile = [t for t in hostile_texts(1500, seed=seed) if "ASSISTANT:" not in t]
    plain = ["What is it?", "A bus.", "Yes", "two  words", "Is it? ", " lead", "1:", ".", "红色"]

    def text() -> str:
        return rng.choice(hostile if rng.random() < 0.5 else plain)

    made = []
    for _ in range(count):
        contents = []
        for _ in range(rng.randint(1, 4)):
            question = text()
            for _ in range(rng.choice((0, 1, 1, 2, 3))):
                place = rng.choice(("<image>\n", "<image>", " <image> ", "\n<image>"))
                question = rng.choice((place + question, question + place, question + place + "x"))
            contents += [question, text()]
        made.append(turns(*contents))
    return made


def labels_of(tokenizer: Tokenizer, name: str, given: list[Turn]) -> tuple[list[int], list[int]]:
    found = encode(read_template(name), tokenizer, given)
    return found.ids.tolist(), np.where(found.supervised, found.ids, -100).tolist()


def test_ids_and_labels_are_the_originals_on_many_random_conversations(
    tokenizer: Tokenizer,
) -> None:
    given = random_conversations(400, seed=1)
    lost = 0
    for conversation in given:
        ids, labels = labels_of(tokenizer, "vicuna_v1", conversation)
        expected_ids, expected = original_v1(tokenizer, conversation)
        assert ids == expected_ids, conversation
        if expected is None:
            lost += 1
        else:
            assert labels == expected, conversation
    assert lost == 0  # only texts that spell </s> or " ASSISTANT: " made it lose a sample


def test_captions_ids_and_labels_are_the_originals(tokenizer: Tokenizer) -> None:
    for caption in hostile_texts(300, seed=2):
        if "<image>" in caption:
            continue
        given = turns("<image>", caption)
        assert labels_of(tokenizer, "plain", given) == original_plain(tokenizer, given), caption


def test_an_answer_that_spells_the_place_of_an_image_makes_none(tokenizer: Tokenizer) -> None:
    """Records that do are refused before; should one come through, it shows no image."""
    found = encode(read_template("vicuna_v1"), tokenizer, turns("<image>\nx", "see <image> here"))
    assert found.ids.tolist().count(IMAGE) == 1
    answer = found.ids[found.supervised].tolist()[:-1]
    assert tokenizer.decode(answer).strip() == "see <image> here"


def test_a_prompt_is_the_beginning_of_the_trained_conversation(tokenizer: Tokenizer) -> None:
    for conversation in random_conversations(60, seed=4):
        whole = encode(read_template("vicuna_v1"), tokenizer, conversation)
        for end in range(1, len(conversation), 2):
            prompt = encode_prompt(read_template("vicuna_v1"), tokenizer, conversation[:end])
            assert whole.ids[: len(prompt)].tolist() == prompt.tolist()
            assert whole.supervised[len(prompt)] and not whole.supervised[len(prompt) - 1]
    caption = encode_prompt(read_template("plain"), tokenizer, turns("<image>"))
    assert caption.tolist() == [tokenizer.processor.bos_id(), IMAGE]


def test_a_prompt_that_ends_with_an_answer_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"must end with the user's"):
        encode_prompt(read_template("vicuna_v1"), tokenizer, turns("<image>\nx", "y"))


def test_expand_gives_an_image_its_tokens_and_everything_else_one() -> None:
    ids = np.array([1, IMAGE, 5, IMAGE, IMAGE, 7], np.int32)
    assert expand(ids, 3).tolist() == [1, *[IMAGE] * 3, 5, *[IMAGE] * 6, 7]
    assert expand(ids, 1).tolist() == ids.tolist()
    assert expand(ids[:0], 144).tolist() == []
    assert expand(ids, 144).dtype == np.int32


def test_the_docstrings_table_is_true(llama_tokenizer: Path) -> None:
    tokenizer = Tokenizer(llama_tokenizer)
    found = encode(read_template("vicuna_v1"), tokenizer, turns("<image>\nWhat?", "A bus."))
    ids = expand(found.ids, 2).tolist()
    names = ["IMAGE" if i == IMAGE else tokenizer.processor.id_to_piece(i) for i in ids]
    shown = "▁US ER : ▁ IMAGE IMAGE ▁ <0x0A> What ? ▁A SS IST ANT : ▁A ▁bus . </s>"
    assert " ".join(names).endswith(shown)
    assert found.supervised.sum() == 4
