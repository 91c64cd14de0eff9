"""Ids and labels of conversations: tables, the original's ids, what transformers gives."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from mobilellama.config import ConfigError
from mobilellama.files.presets import preset_names
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import Encoded, encode, encode_prompt, stop_ids
from mobilellama.sft.data.template import TEMPLATES, Template, read_template
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.helpers.hostile_texts import hostile_texts

NAMES = preset_names(TEMPLATES)
SENTENCEPIECE = ("vicuna_v1", "mistral", "plain")
PHI3 = [
    AddedToken(token, rstrip=True, normalized=False, special=True)
    for token in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
]
# The kind of tokenizer that each template's models have, its special tokens, begin and end.
KINDS: dict[str, tuple[str, list[Any], str | None, str | None]] = {
    "chatml": ("byte_level_lines", ["<|im_start|>", "<|im_end|>"], None, "<|endoftext|>"),
    "qwen2": ("byte_level_lines", ["<|im_start|>", "<|im_end|>"], None, "<|endoftext|>"),
    "plain_no_bos": ("byte_level_lines", ["<|im_end|>"], None, "<|endoftext|>"),
    "phi2": ("byte_level", ["</s>"], None, "<|endoftext|>"),
    "phi3": ("prepend", PHI3, "<s>", "<|endoftext|>"),
    "llama_3": (
        "byte_level_lines",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>",
        "<|end_of_text|>",
    ),
    "gemma": ("never", ["<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>"),
}

Open = Callable[[str], TextTokenizer]


@pytest.fixture(scope="module")
def tokenizer_of(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Open:
    """A function from a template's name to a tokenizer of the kind that it is used with."""
    root = tmp_path_factory.mktemp("tokenizers")
    opened: dict[str, TextTokenizer] = {name: Tokenizer(small_tokenizer) for name in SENTENCEPIECE}
    for name, (kind, specials, bos, eos) in KINDS.items():
        folder = write_tokenizer(root / name, kind, specials=specials, bos=bos, eos=eos)
        opened[name] = open_tokenizer(folder)
    return opened.__getitem__


def turns(*contents: str, system: str | None = None) -> list[Turn]:
    """Return user and assistant in turn, after the system text if there is one."""
    first = [] if system is None else [Turn("system", system)]
    roles = itertools.cycle(("user", "assistant"))
    return [*first, *(Turn(next(roles), content) for content in contents)]


def spelling(tokenizer: TextTokenizer, token: int) -> str:
    """Return how one token is spelt, a line break as the sign ⏎."""
    names = {special.id: name for name, special in tokenizer.specials.items()}
    if token in names:
        return names[token]
    if isinstance(tokenizer, Tokenizer) and tokenizer.processor.id_to_piece(token)[0] == "▁":
        return tokenizer.processor.id_to_piece(token).replace("▁", " ")
    return tokenizer.decode([token]).replace("\n", "⏎")


def table(tokenizer: TextTokenizer, encoded: Encoded, *, width: int = 55) -> list[str]:
    """Return aligned lines: tokens as spelt, and below them ^ where they are supervised.

    A prompt's special token begins a new line after `width` characters.
    """
    special = {facts.id for facts in tokenizer.specials.values()}
    rows = [["", ""]]
    for token, marked in zip(encoded.ids.tolist(), encoded.supervised, strict=True):
        if token in special and not marked and len(rows[-1][0]) > width:
            rows.append(["", ""])
        spelt = spelling(tokenizer, token)
        rows[-1][0] += spelt
        rows[-1][1] += ("^" if marked else " ") * len(spelt)
    return [line.rstrip() for row in rows for line in row if line.strip()]


TABLES = {
    # LLaMA's kind puts a space before a text at the start and after a special token.
    "vicuna_v1": """
<s> S USER: Q1 ASSISTANT: A1</s> USER: Q2 ASSISTANT: A2</s>
                         ^^^^^^^                    ^^^^^^^
""",
    "mistral": """
<s> [INST] S⏎⏎Q1 [/INST] A1</s> [INST] Q2 [/INST] A2</s>
                        ^^^^^^^                  ^^^^^^^
""",
    "plain": """
<s> S⏎Q1A1⏎Q2A2⏎
        ^^^  ^^^
""",
    "plain_no_bos": """
S⏎Q1A1⏎Q2A2⏎
    ^^^  ^^^
""",
    "phi2": """
S USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT: A2</s>
                     ^^^^^^^                   ^^^^^^^
""",
    "chatml": """
<|im_start|>system⏎S<|im_end|>⏎<|im_start|>user⏎Q1<|im_end|>⏎
<|im_start|>assistant⏎A1<|im_end|>⏎<|im_start|>user⏎Q2<|im_end|>⏎
                      ^^^^^^^^^^^^
<|im_start|>assistant⏎A2<|im_end|>
                      ^^^^^^^^^^^^
""",
    "qwen2": """
<|im_start|>system⏎S<|im_end|>⏎<|im_start|>user⏎Q1<|im_end|>⏎
<|im_start|>assistant⏎A1<|im_end|>⏎<|im_start|>user⏎Q2<|im_end|>⏎
                      ^^^^^^^^^^^^
<|im_start|>assistant⏎A2<|im_end|>
                      ^^^^^^^^^^^^
""",
    # Phi-3's special tokens swallow the white space after them, here as in transformers.
    "phi3": """
<s><|system|> S<|end|><|user|> Q1<|end|><|assistant|> A1<|end|>
                                                     ^^^^^^^^^^
<|user|> Q2<|end|><|assistant|> A2<|end|>
                               ^^^^^^^^^^
""",
    "llama_3": """
<|begin_of_text|><|start_header_id|>system<|end_header_id|>⏎⏎S
<|eot_id|><|start_header_id|>user<|end_header_id|>⏎⏎Q1<|eot_id|>
<|start_header_id|>assistant<|end_header_id|>⏎⏎A1<|eot_id|>
                                               ^^^^^^^^^^^^
<|start_header_id|>user<|end_header_id|>⏎⏎Q2<|eot_id|><|start_header_id|>assistant
<|end_header_id|>⏎⏎A2<|eot_id|>
                   ^^^^^^^^^^^^
""",
    "gemma": """
<bos><start_of_turn>user⏎S⏎⏎Q1<end_of_turn>⏎<start_of_turn>model⏎A1<end_of_turn>⏎
                                                                 ^^^^^^^^^^^^^^^
<start_of_turn>user⏎Q2<end_of_turn>⏎<start_of_turn>model⏎A2<end_of_turn>
                                                         ^^^^^^^^^^^^^^^
""",
}


def test_every_template_has_a_tokenizer_and_a_table() -> None:
    assert sorted([*SENTENCEPIECE, *KINDS]) == NAMES
    assert sorted(TABLES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_answers_and_their_ends_are_supervised_and_nothing_else(
    name: str, tokenizer_of: Open
) -> None:
    template, tokenizer = read_template(name), tokenizer_of(name)
    encoded = encode(template, tokenizer, turns("Q1", "A1", "Q2", "A2", system="S"))
    assert table(tokenizer, encoded) == TABLES[name].strip("\n").splitlines()
    assert (encoded.ids.dtype, encoded.supervised.dtype) == (np.int32, np.bool_)


@pytest.fixture(scope="module", params=["small_tokenizer", "llama_tokenizer"])
def sentencepiece(request: pytest.FixtureRequest) -> Tokenizer:
    """The model trained on the small corpus, and LLaMA's where it is present."""
    return Tokenizer(request.getfixturevalue(request.param))


def test_the_docstrings_table_is_true(llama_tokenizer: Path) -> None:
    tokenizer = Tokenizer(llama_tokenizer)
    encoded = encode(read_template("vicuna_v1"), tokenizer, turns("hi", "yo there"))
    pieces = [tokenizer.processor.id_to_piece(int(token)) for token in encoded.ids]
    assert " ".join(pieces).startswith("<s> ▁A ▁chat ")
    assert " ".join(pieces).endswith(". ▁US ER : ▁hi ▁A SS IST ANT : ▁yo ▁there </s>")
    assert encoded.supervised.tolist() == [False] * (len(pieces) - 3) + [True] * 3


SEAMS = (
    "q", " lead", "  two", "trail ", "trail  ", "", " ", "   ", "\n", "\n\nx\n", "a  b   c", "\t",
    "🙂", "👩‍👩‍👧 日本語", "e\u0301\ufeff\u00a0", "▁", "▁x▁", ".", ":", "x:", "\r\n", "<0x0A>",
    "USER: x ASSISTANT:", "A" * 60,
)  # fmt: skip
SPELT = ("</s>", "a</s>b", "<s>", "<unk> x", "</s> </s>", "<s>[INST]")


def golden_conversations() -> list[list[Turn]]:
    """Return seams as question and answer, both ways, and random longer conversations."""
    made = [turns(a, b, b, a) for a, b in itertools.product(SEAMS + SPELT, SEAMS[:8] + SPELT[:1])]
    made += [turns(a, "b", system=a) for a in SEAMS + SPELT]
    texts = hostile_texts(400)
    made += [turns(*texts[i : i + 6]) for i in range(0, len(texts) - 6, 6)]
    return made


def vicuna_strings(given: list[Turn]) -> list[str]:
    """Return what stands before each </s> of the original's conversation string."""
    template = read_template("vicuna_v1")
    first = given[0].content if given[0].role == "system" else template.default_system
    contents = [turn.content for turn in given if turn.role != "system"]
    rounds = [
        f"USER: {q} ASSISTANT: {a}" for q, a in zip(contents[::2], contents[1::2], strict=True)
    ]
    return [f"{first} {rounds[0]}", *rounds[1:]]


def test_the_ids_are_those_of_the_originals_training(sentencepiece: Tokenizer) -> None:
    """The legacy LLaMA tokenizer cut at </s> and gave each part to sentencepiece by itself."""
    template, sp = read_template("vicuna_v1"), sentencepiece.processor
    different = []
    for given in golden_conversations():
        expected = [sp.bos_id()]
        for part in vicuna_strings(given):
            expected += [*sp.encode(part), sp.eos_id()]
        if encode(template, sentencepiece, given).ids.tolist() != expected:
            different.append(given)
    assert different == []


def original_labels(sentencepiece: Tokenizer, given: list[Turn]) -> list[bool] | None:
    """Mask as the original did, from lengths; None where its lengths do not add up.

    It cut the finished string at </s>, wherever that came from, tokenised each round again with
    <s>, whose place stood for the </s>, and took the part before the answer to be as long as
    its own tokens, less <s> and the space at its end.
    """
    sp = sentencepiece.processor

    def length(text: str) -> int:
        parts = text.split("</s>")
        return 1 + sum(len(sp.encode(part)) for part in parts) + len(parts) - 1

    string = "".join(f"{part}</s>" for part in vicuna_strings(given))
    total = length(string)
    supervised, at = [False] + [True] * (total - 1), 1
    for part in string.split("</s>"):
        halves = part.split(" ASSISTANT: ")
        if part == "" or len(halves) != 2:
            break
        prompt = length(halves[0] + " ASSISTANT: ") - 2
        supervised[at : at + prompt] = [False] * prompt
        at += length(part)
    return supervised if at == total else None


def test_the_labels_are_the_originals_wherever_its_lengths_add_up(
    sentencepiece: Tokenizer,
) -> None:
    template = read_template("vicuna_v1")
    compared, lost, wrong = 0, 0, 0
    for given in golden_conversations():
        expected = original_labels(sentencepiece, given)
        found = encode(template, sentencepiece, given).supervised.tolist()
        if expected is None:
            lost += 1
        elif any("ASSISTANT:" in turn.content for turn in given[::2]):
            wrong += found != expected  # it took the question's word for the prompt's
        else:
            compared += 1
            assert found == expected, given
    assert compared > 250
    # It threw away samples whose texts spell </s> or " ASSISTANT: ".
    assert 0 < lost < 150
    assert wrong > 0


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_are_the_templates_own_whatever_the_texts_spell(
    name: str, tokenizer_of: Open
) -> None:
    template, tokenizer = read_template(name), tokenizer_of(name)
    special = [facts.id for facts in tokenizer.specials.values()]

    def count(text: str) -> dict[int, int]:
        ids = encode(template, tokenizer, turns(text, text, "x", text, system=text)).ids.tolist()
        return {token: ids.count(token) for token in special}

    spelt = " ".join(["x", *tokenizer.specials, "x"])
    assert count(spelt) == count("x")
    prompt = encode_prompt(template, tokenizer, turns(spelt)).tolist()
    assert spelt in tokenizer.decode(prompt).replace("  ", " ")


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_the_beginning_of_the_trained_conversation(
    name: str, tokenizer_of: Open
) -> None:
    """Whatever the answer starts with: this is what the cut before it is for."""
    template, tokenizer = read_template(name), tokenizer_of(name)
    for question, answer in itertools.product(SEAMS[:10], SEAMS):
        given = turns(question, answer, question, answer)
        whole = encode(template, tokenizer, given)
        # With nothing between an answer's line break and the next answer, this tokenizer joins
        # the line breaks at which they meet. A caption has one answer.
        joined = name == "plain_no_bos" and not question
        for end in (1,) if joined else (1, 3):
            prompt = encode_prompt(template, tokenizer, given[:end])
            assert whole.ids[: len(prompt)].tolist() == prompt.tolist()
            assert not (template.prompt and whole.supervised[len(prompt) - 1])
            # A conversation's first token has nothing before it that could predict it.
            assert whole.supervised[len(prompt)] == (len(prompt) > 0)


def exported(template: Template, tokenizer: TextTokenizer, folder: Path) -> Any:
    """Export the tokenizer with the template's Jinja, and load it as users do."""
    folder.mkdir()
    tokenizer.write_hf(
        folder, max_length_tokens=512, add_bos=template.bos, chat_template=template.jinja()
    )
    return AutoTokenizer.from_pretrained(folder)


def cut_is_a_seam(template: Template, given: list[Turn]) -> bool:
    """Whether the cut before each answer is where the tokenizer itself cuts the whole string."""
    pairs = itertools.pairwise(turn.content for turn in given if turn.role != "system")
    if template.is_caption:  # nothing parts a question from its answer but their own texts
        return all(
            a.startswith(" ") and q[-1:] != " " for q, a in itertools.islice(pairs, 0, None, 2)
        )
    if template.prompt.endswith("\n") and not template.strip:
        return not any(a[:1].isspace() for _, a in itertools.islice(pairs, 0, None, 2))
    return True


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_tokenizers_chat_template_gives_the_same_ids(
    name: str, tokenizer_of: Open, tmp_path: Path
) -> None:
    template, tokenizer = read_template(name), tokenizer_of(name)
    loaded = exported(template, tokenizer, tmp_path / "export")
    texts = hostile_texts(120, seed=1)
    conversations = [turns("Q", "A"), turns("Q1", " A1", "Q2", " A2", system="S")]
    conversations += [turns(*texts[i : i + 4], system=texts[i]) for i in range(0, 200, 4)]
    conversations += [
        turns(*(f"{t.strip()} {t.strip()}" for t in texts[i : i + 2])) for i in range(0, 200, 2)
    ]
    compared = 0
    for given in conversations:
        if not cut_is_a_seam(template, given):
            continue
        compared += 1
        messages = [{"role": turn.role, "content": turn.content} for turn in given]
        whole = loaded.apply_chat_template(messages).input_ids
        assert encode(template, tokenizer, given).ids.tolist() == whole, given
        prompt = loaded.apply_chat_template(messages[:-1], add_generation_prompt=True).input_ids
        assert encode_prompt(template, tokenizer, given[:-1]).tolist() == prompt
    assert compared > (1 if template.is_caption else 80)


def test_the_cut_goes_before_the_whole_strings_ids_where_they_differ(tokenizer_of: Open) -> None:
    """ChatML's prompt ends in a line break: a tokenizer may join it with the answer's first."""
    template, tokenizer = read_template("chatml"), tokenizer_of("chatml")
    given = turns("Q", "\n\nA")
    joined = tokenizer.encode("assistant\n\n\nA", begins=False)
    parts = [tokenizer.encode(text, begins=False) for text in ("assistant\n", "\n\nA")]
    assert joined != parts[0] + parts[1]
    ids = encode(template, tokenizer, given).ids.tolist()
    end = tokenizer.specials["<|im_end|>"].id
    assert ids[-len(parts[0] + parts[1]) - 1 :] == [*parts[0], *parts[1], end]


def test_special_tokens_swallow_white_space_across_the_cut_as_in_transformers(
    tokenizer_of: Open, tmp_path: Path
) -> None:
    template, tokenizer = read_template("phi3"), tokenizer_of("phi3")
    loaded = exported(template, tokenizer, tmp_path / "export")
    for question, answer in itertools.product(SEAMS[:10], SEAMS):
        given = turns(question, answer, question, answer)
        messages = [{"role": turn.role, "content": turn.content} for turn in given]
        whole = loaded.apply_chat_template(messages).input_ids
        assert encode(template, tokenizer, given).ids.tolist() == whole, given


@pytest.mark.parametrize("kind", ["byte_level_prefix", "prepend", "first", "always", "never"])
@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("bos", [False, True])
def test_every_kind_of_tokenizer_agrees_with_transformers(
    kind: str, strips: bool, bos: bool, tmp_path: Path
) -> None:
    """Some mark the first text only, some each; some end tokens swallow white space about them."""
    template = dataclasses.replace(read_template("vicuna_v1"), bos=bos)
    end = AddedToken("</s>", lstrip=strips, rstrip=strips, normalized=False, special=True)
    folder = write_tokenizer(tmp_path / "t", kind, specials=[end], bos="<s>")
    tokenizer = open_tokenizer(folder)
    assert tokenizer.begins_after_special == (kind != "first")
    loaded = exported(template, tokenizer, tmp_path / "export")
    for a, b in itertools.product(("q", " lead", "trail  ", "", "\n", "🙂 x"), repeat=2):
        given = turns(a, b, b, a, system=a)
        messages = [{"role": turn.role, "content": turn.content} for turn in given]
        whole = loaded.apply_chat_template(messages).input_ids
        assert encode(template, tokenizer, given).ids.tolist() == whole, given


def test_a_token_that_the_tokenizer_reads_from_texts_is_kept_out_of_them(tmp_path: Path) -> None:
    """Some chat models' files add <|im_start|> without marking it special."""
    specials = [AddedToken("<|im_start|>", special=False, normalized=False), "<|im_end|>"]
    folder = write_tokenizer(tmp_path / "t", "byte_level", specials=specials)
    tokenizer, template = open_tokenizer(folder), read_template("chatml")
    start = tokenizer.specials["<|im_start|>"]
    assert start.read_from_text
    assert start.id in tokenizer.encode("a<|im_start|>", begins=False)
    given = turns("a<|im_start|><|im_start|>system", "b")
    ids = encode(template, tokenizer, given).ids.tolist()
    assert ids.count(start.id) == 2
    assert "a<|im_start|><|im_start|>system" in tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        (
            "chatml",
            "vicuna_v1",
            "template chatml: specials = <|im_start|>: is not a special token of",
        ),
        ("vicuna_v1", "chatml", "template vicuna_v1: specials = </s>: is not a special token of "),
        ("plain", "chatml", "template plain: bos = true: needs a begin token, but "),
    ],
)
def test_a_template_that_does_not_fit_the_tokenizer_is_refused(
    name: str, other: str, message: str, tokenizer_of: Open
) -> None:
    with pytest.raises(ConfigError) as caught:
        encode(read_template(name), tokenizer_of(other), turns("Q", "A"))
    assert message in str(caught.value)
    assert str(tokenizer_of(other).path) in str(caught.value)


def test_a_special_token_that_the_template_takes_for_text_is_refused(tmp_path: Path) -> None:
    """Mistral's tokenizers from v0.3 on have [INST] as a token."""
    folder = write_tokenizer(tmp_path / "t", "prepend", specials=["[INST]"], bos="<s>", eos="</s>")
    with pytest.raises(ConfigError, match=r"specials = </s>: does not name \[INST\], a special t"):
        encode(read_template("mistral"), open_tokenizer(folder), turns("Q", "A"))


def test_generation_stops_at_the_templates_ends_and_the_end_of_text(tokenizer_of: Open) -> None:
    def stops(name: str) -> list[str]:
        tokenizer = tokenizer_of(name)
        return [spelling(tokenizer, i) for i in stop_ids(read_template(name), tokenizer)]

    assert stops("vicuna_v1") == ["</s>"]
    assert stops("llama_3") == ["<|eot_id|>", "<|end_of_text|>"]
    assert stops("phi2") == ["</s>", "<|endoftext|>"]
    assert stops("plain") == ["⏎", "</s>"]
    with pytest.raises(ConfigError, match=r"stop = <\|im_end\|>: is \d+ tokens of .*Name special"):
        stop_ids(read_template("chatml"), tokenizer_of("vicuna_v1"))


def test_an_answer_is_supervised_up_to_its_end_even_if_empty(tokenizer_of: Open) -> None:
    encoded = encode(read_template("chatml"), tokenizer_of("chatml"), turns("Q", ""))
    assert encoded.supervised.tolist() == [False] * (len(encoded.ids) - 1) + [True]
    nothing = encode(read_template("chatml"), tokenizer_of("chatml"), turns("Q"))
    assert not nothing.supervised.any()


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_is_not_to_be_learnt_has_the_same_ids_and_no_marks(
    name: str, tokenizer_of: Open
) -> None:
    """White space at its start would else be joined with a prompt that ends in line breaks."""
    template, tokenizer = read_template(name), tokenizer_of(name)
    given = turns("Q1", "\n A1", "Q2", "\n A2")
    learnt = encode(template, tokenizer, given)
    given[1] = dataclasses.replace(given[1], learnt=False)
    encoded = encode(template, tokenizer, given)
    assert encoded.ids.tolist() == learnt.ids.tolist()
    first = np.cumsum(np.diff(learnt.supervised, prepend=False)) <= 2  # until the first answer ends
    assert encoded.supervised.tolist() == (learnt.supervised & ~first).tolist()
    assert encoded.supervised.any()


def test_the_first_token_is_never_supervised(small_tokenizer: Path) -> None:
    """A packed row would teach the conversation before it to go on into this one."""
    bare = dataclasses.replace(read_template("plain"), name="bare", bos=False, user="{content}")
    encoded = encode(bare, Tokenizer(small_tokenizer), [Turn("user", ""), Turn("assistant", "yes")])
    assert not encoded.supervised[0] and encoded.supervised[1:].all()
