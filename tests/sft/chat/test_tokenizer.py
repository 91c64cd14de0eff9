"""A chat folder's tokenizer: the prompt's ids, where answers end, text as it streams."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError, UserError
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.chat.tokenizer import ChatTokenizer, Stop, TextStream
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import encode_prompt
from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hostile_texts import hostile_texts
from tests.sft.helpers.tiny_chat_model import CONTEXT_TOKENS, copy_chat_model, write_tiny_chat_model

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SPECIALS = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '### Human: ' + m.content + '\n' }}"
    "{% elif m.role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% else %}{{ '### Bot: ' + m.content + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Bot:' }}{% endif %}"
)
QUESTION = [Turn("user", "Who are you?")]


@pytest.fixture
def tokenizer(tiny_chat_model: Path) -> ChatTokenizer:
    return ChatTokenizer(ModelChoice(model=str(tiny_chat_model)))


def test_the_prompt_is_the_templates_text_in_the_tokenizers_ids(
    tokenizer: ChatTokenizer, small_tokenizer: Path
) -> None:
    turns = [Turn("system", "Be kind."), *QUESTION, Turn("assistant", "A  model."), *QUESTION]
    encode = Tokenizer(small_tokenizer).processor.encode
    assert tokenizer.prompt(turns) == [
        1, *encode("Be kind. USER: Who are you? ASSISTANT: A  model."),
        2, *encode("USER: Who are you? ASSISTANT:"),
    ]  # fmt: skip
    assert tokenizer.context_tokens == CONTEXT_TOKENS


def test_prompts_have_the_ids_of_training(tiny_chat_model: Path, small_tokenizer: Path) -> None:
    template, sentencepiece = read_template("vicuna_v1"), Tokenizer(small_tokenizer)
    tokenizer = ChatTokenizer(ModelChoice(model=str(tiny_chat_model), template="vicuna_v1"))
    texts = hostile_texts(30)
    for said, answered in itertools.pairwise(texts):
        turns = [Turn("user", said), Turn("assistant", answered), Turn("user", answered)]
        expected = encode_prompt(template, sentencepiece, turns)
        assert tokenizer.prompt(turns) == list(expected)


def test_a_special_token_that_a_user_spells_out_is_text(tokenizer: ChatTokenizer) -> None:
    said = "say </s> and <s> now"
    ids = tokenizer.prompt([Turn("user", said)])
    assert ids[0] == 1
    assert not {1, 2} & {*ids[1:]}
    assert tokenizer.inner.decode(ids[1:]) == f"USER: {said} ASSISTANT:"


def test_bytes_that_are_no_text_do_not_break_a_prompt(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.prompt([Turn("user", "caf\udce9")])
    assert tokenizer.inner.decode(ids[1:]) == "USER: caf? ASSISTANT:"


def test_one_of_our_templates_takes_the_folders_place(tiny_chat_model: Path) -> None:
    tokenizer = ChatTokenizer(ModelChoice(model=str(tiny_chat_model), template="vicuna_v1"))
    text = tokenizer.inner.decode(tokenizer.prompt(QUESTION))
    assert text.startswith("<s> A chat between a curious user")
    assert text.endswith("questions. USER: Who are you? ASSISTANT:")
    assert tokenizer.stop == Stop(frozenset({2}))


def test_the_end_that_the_template_writes_stops_where_the_settings_are_wrong(
    tiny_chat_model: Path, tmp_path: Path
) -> None:
    """eos_token and generation_config name <s> and <unk>; the template ends answers with </s>."""
    template = json.loads((tiny_chat_model / "tokenizer_config.json").read_text())["chat_template"]
    wrong = copy_chat_model(
        tiny_chat_model, tmp_path / "wrong", eos_token="<unk>",
        chat_template=template.replace("eos_token", "'</s>'"),
    )  # fmt: skip
    (wrong / "generation_config.json").write_text('{"eos_token_id": [1]}')
    assert ChatTokenizer(ModelChoice(model=str(wrong))).stop == Stop(frozenset({0, 1, 2}))


def test_an_added_end_token_stops(tiny_chat_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "chatml"
    shutil.copytree(tiny_chat_model, folder)
    added: Any = AutoTokenizer.from_pretrained(folder)
    added.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    added.chat_template = CHATML
    added.save_pretrained(folder)
    tokenizer = ChatTokenizer(ModelChoice(model=str(folder)))
    end = tokenizer.inner.convert_tokens_to_ids("<|im_end|>")
    assert end >= 800
    assert tokenizer.stop == Stop(frozenset({2, end}))


def test_a_template_without_special_tokens_stops_at_the_next_questions_text(
    tiny_chat_model: Path, tmp_path: Path
) -> None:
    folder = copy_chat_model(tiny_chat_model, tmp_path / "plain", chat_template=NO_SPECIALS)
    tokenizer = ChatTokenizer(ModelChoice(model=str(folder)))
    assert tokenizer.stop == Stop(frozenset({2}), ("\n### Human:",))
    ids = tokenizer.inner("one\n### Hum\n### Human: two", add_special_tokens=False).input_ids
    ends = [n for n in range(1, len(ids) + 1) if tokenizer.ended(ids[:n])]
    assert "\n### Human:" in tokenizer.decode(ids[: ends[0]])
    assert "\n### Human:" not in tokenizer.decode(ids[: ends[0] - 1])
    assert tokenizer.text(ids) == "one\n### Hum"
    stream, shown = TextStream(tokenizer), []
    for token in ids:
        shown.append(stream.add(token))
    assert "".join(shown) + stream.end() == "one\n### Hum"
    assert not any("# " in part for part in shown[-4:])  # held back, not shown and taken back


def test_a_template_that_refuses_a_role_is_quoted(tiny_chat_model: Path, tmp_path: Path) -> None:
    folder = copy_chat_model(tiny_chat_model, tmp_path / "plain", chat_template=NO_SPECIALS)
    tokenizer = ChatTokenizer(ModelChoice(model=str(folder)))
    with pytest.raises(UserError, match="template refuses this: System role not supported"):
        tokenizer.prompt([Turn("system", "Be kind."), *QUESTION])


@pytest.mark.parametrize("said", ["Hi", "Hi </s> there"])
def test_a_refusal_is_quoted_whatever_the_message_spells(
    said: str, tiny_chat_model: Path, tmp_path: Path
) -> None:
    template = "{% if messages | length < 3 %}{{ raise_exception('Say more.') }}{% endif %}"
    folder = copy_chat_model(tiny_chat_model, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = ChatTokenizer(ModelChoice(model=str(folder)))
    with pytest.raises(UserError, match=r"the chat template refuses this: Say more\."):
        tokenizer.prompt([Turn("user", said)])


@pytest.mark.parametrize("said", ["Hi", "Hi </s> there"])
def test_half_a_surrogate_pair_that_a_template_writes_is_replaced(
    said: str, tiny_chat_model: Path, tmp_path: Path
) -> None:
    folder = copy_chat_model(tiny_chat_model, tmp_path / "chat")
    texts = []
    for written in (r"\ud800", "?"):
        template = "{{ 'a" + written + "' + messages[0].content }}"
        (folder / "chat_template.jinja").write_text(template)
        tokenizer = ChatTokenizer(ModelChoice(model=str(folder)))
        texts.append(tokenizer.decode(tokenizer.prompt([Turn("user", said)])))
    assert texts[0].startswith("a?Hi") and texts[1].startswith("a?Hi")


def test_a_template_that_is_no_jinja_is_named_by_its_file(
    tiny_chat_model: Path, tmp_path: Path
) -> None:
    folder = copy_chat_model(tiny_chat_model, tmp_path / "odd", chat_template="{% for %}\n{{ x }}")
    choice = ModelChoice(model=str(folder))
    with pytest.raises(ConfigError) as error:
        ChatTokenizer(choice)
    (name,) = (path.name for path in folder.iterdir() if "{% for %}" in path.read_text("latin-1"))
    assert str(error.value).startswith(
        f"model = {folder}: the chat template in {folder / name} is not Jinja (line 1: "
    )
    assert str(error.value).endswith("). Fix that file, or give --template.")
    named = ModelChoice(model=str(folder), template="vicuna_v1")
    assert ChatTokenizer(named).prompt(QUESTION)


def test_a_template_that_asks_for_gigabytes_is_stopped_and_named(
    tiny_chat_model: Path, tmp_path: Path
) -> None:
    size = "(messages | length * 10**9)"
    template = "{% if messages[0].content == 'x' %}{{ 'a' * SIZE }}{% endif %}"
    template += "{{ messages[0].content }}"
    template = template.replace("SIZE", size)
    folder = copy_chat_model(tiny_chat_model, tmp_path / "hostile", chat_template=template)
    tokenizer = ChatTokenizer(ModelChoice(model=str(folder)))
    with pytest.raises(ConfigError) as error:
        tokenizer.prompt([Turn("user", "x"), Turn("assistant", "y"), Turn("user", "z")])
    said = str(error.value)
    assert said.startswith(f"model = {folder}: the chat template in {folder}/")
    assert "took more than 1 GiB of memory" in said
    assert said.endswith("and was stopped. Take another model's, or give --template.")
    assert tokenizer.decode(tokenizer.prompt(QUESTION)).strip() == QUESTION[0].content


def test_streamed_text_is_the_whole_text_and_never_half_a_character(
    tokenizer: ChatTokenizer,
) -> None:
    for text in hostile_texts(150):
        ids = tokenizer.inner(text, add_special_tokens=False).input_ids
        stream = TextStream(tokenizer)
        parts = [stream.add(token) for token in ids]
        whole = "".join(parts) + stream.end()
        assert whole == tokenizer.decode(ids).lstrip().rstrip("\ufffd")
        assert "\ufffd" not in whole or "\ufffd" in text


def test_bytes_that_are_no_character_are_shown_in_the_end(tokenizer: ChatTokenizer) -> None:
    byte = tokenizer.inner.convert_tokens_to_ids("<0xF0>")
    [letter] = tokenizer.inner("x", add_special_tokens=False).input_ids[-1:]
    stream = TextStream(tokenizer)
    whole = "".join(stream.add(token) for token in [byte] * 9 + [letter] * 9) + stream.end()
    assert whole.endswith("x" * 9)
    assert whole.count("\ufffd") >= 1


def test_runs_of_spaces_keep_their_ids_in_an_older_folder(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    """LLaMA folders from before have LlamaTokenizer and tokenizer.model alone."""
    folder = write_tiny_chat_model(tmp_path / "old", small_tokenizer)
    (folder / "tokenizer.json").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizer"})
    )
    tokenizer, encode = ChatTokenizer(ModelChoice(model=str(folder))), Tokenizer(small_tokenizer)
    for text in ("a  b   c", "  two", "x     y\n        z"):
        expected = [1, *encode.processor.encode(f"USER: {text} ASSISTANT:")]
        assert tokenizer.prompt([Turn("user", text)]) == expected
