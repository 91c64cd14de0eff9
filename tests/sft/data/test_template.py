"""Templates against golden strings, and their Jinja as transformers renders it against ours."""

import itertools
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from jinja2 import nodes
from transformers.utils.chat_template_utils import render_jinja_template

from mobilellama.config import ConfigError
from mobilellama.files.presets import preset_names
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.template import BOS, TEMPLATES, Segment, Template, read_template

S = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
NAMES = preset_names(TEMPLATES)

# One question and answer; two of them after the system text "Be brief."; the same up to where the
# model goes on, without the second answer. <s> stands for whatever begins a text.
GOLDEN = {
    "vicuna_v1": (
        f"<s>{S} USER: Q1 ASSISTANT: A1</s>",
        "<s>Be brief. USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT: A2</s>",
        "<s>Be brief. USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:",
    ),
    "phi2": (
        f"{S} USER: Q1 ASSISTANT: A1</s>",
        "Be brief. USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT: A2</s>",
        "Be brief. USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:",
    ),
    "chatml": (
        "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
        "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
        "<|im_start|>assistant\nA2<|im_end|>",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
        "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "qwen2": (
        f"<|im_start|>system\n{S}<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
        "<|im_start|>assistant\nA1<|im_end|>",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
        "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
        "<|im_start|>assistant\nA2<|im_end|>",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
        "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "phi3": (
        f"<s><|system|>\n{S}<|end|>\n<|user|>\nQ1<|end|>\n<|assistant|>\nA1<|end|>",
        "<s><|system|>\nBe brief.<|end|>\n<|user|>\nQ1<|end|>\n<|assistant|>\nA1<|end|>\n"
        "<|user|>\nQ2<|end|>\n<|assistant|>\nA2<|end|>",
        "<s><|system|>\nBe brief.<|end|>\n<|user|>\nQ1<|end|>\n<|assistant|>\nA1<|end|>\n"
        "<|user|>\nQ2<|end|>\n<|assistant|>\n",
    ),
    "llama_3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>",
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA2<|eot_id|>",
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": (
        "<s><start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>",
        "<s><start_of_turn>user\nBe brief.\n\nQ1<end_of_turn>\n<start_of_turn>model\n"
        "A1<end_of_turn>\n<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n"
        "A2<end_of_turn>",
        "<s><start_of_turn>user\nBe brief.\n\nQ1<end_of_turn>\n<start_of_turn>model\n"
        "A1<end_of_turn>\n<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n",
    ),
    "mistral": (
        "<s>[INST] Q1 [/INST] A1</s>",
        "<s>[INST] Be brief.\n\nQ1 [/INST] A1</s>[INST] Q2 [/INST] A2</s>",
        "<s>[INST] Be brief.\n\nQ1 [/INST] A1</s>[INST] Q2 [/INST]",
    ),
    "plain": ("<s>Q1A1\n", "<s>Be brief.\nQ1A1\nQ2A2\n", "<s>Be brief.\nQ1A1\nQ2"),
    "plain_no_bos": ("Q1A1\n", "Be brief.\nQ1A1\nQ2A2\n", "Be brief.\nQ1A1\nQ2"),
}

HOSTILE = (
    "{{ x }}", "{% raw %}", "{%- endif -%}", "{# note #}", "it's \"so\"", "back\\slash \\n", "\n",
    "a\r\nb\n", " lead and trail ", "", "{content}", "{bos}", "</s><|im_end|>", "naïve 日本 🙂",
)  # fmt: skip


def turns(*contents: str, system: str | None = None) -> list[Turn]:
    """Return user and assistant in turn, after the system text if there is one."""
    first = [] if system is None else [Turn("system", system)]
    roles = itertools.cycle(("user", "assistant"))
    return [*first, *(Turn(next(roles), content) for content in contents)]


def rendered(template: Template, given: list[Turn], *, generate: bool = False) -> str:
    """Render the Jinja as transformers does."""
    messages = [{"role": turn.role, "content": turn.content} for turn in given]
    [text], _ = render_jinja_template(
        [messages], chat_template=template.jinja(), add_generation_prompt=generate, bos_token="<s>"
    )
    return text


def test_every_template_has_golden_strings() -> None:
    assert sorted(GOLDEN) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_is_written_as_the_golden_string(name: str) -> None:
    template = read_template(name)
    one, two, prompt = GOLDEN[name]
    given = turns("Q1", "A1", "Q2", "A2", system="Be brief.")
    assert template.text(turns("Q1", "A1"), bos="<s>") == one
    assert template.text(given, bos="<s>") == two
    assert template.text(given[:-1], generate=True, bos="<s>") == prompt
    assert template.prompt_text(given[:-1], bos="<s>") == prompt
    assert two.startswith(prompt), "generation starts where the answer does"


@pytest.mark.parametrize("name", NAMES)
def test_the_jinja_renders_the_same_in_transformers(name: str) -> None:
    template = read_template(name)
    for system in (None, "", "Be brief.", " spaces\n"):
        for exchanges in (1, 2, 3):
            contents = [f"{role}{i}" for i in range(exchanges) for role in "QA"]
            given = turns(*contents, system=system)
            assert rendered(template, given) == template.text(given, bos="<s>")
            prompt = rendered(template, given[:-1], generate=True)
            assert prompt == template.text(given[:-1], generate=True, bos="<s>")
            assert rendered(template, given[:-1]) == template.text(given[:-1], bos="<s>")


@pytest.mark.parametrize("name", NAMES)
def test_the_jinja_takes_contents_as_they_are(name: str) -> None:
    template = read_template(name)
    for i, content in enumerate(HOSTILE):
        other = HOSTILE[i - 1]
        given = turns(content, other, other, content, system=content)
        text = template.text(given, bos="<s>")
        assert rendered(template, given) == text
        for part in (content, other):
            assert (part.strip() if template.strip else part) in text


@pytest.mark.parametrize("name", NAMES)
def test_the_jinja_does_not_lean_on_a_readers_rules_for_white_space(name: str) -> None:
    """transformers trims blocks, plain Jinja does not, and drops a last line break."""
    template, given = read_template(name), turns("\n Q", "A\n", "Q", "A", system="S")
    messages = [{"role": turn.role, "content": turn.content} for turn in given]
    for trim, lstrip in itertools.product((False, True), repeat=2):
        reader = jinja2.Environment(trim_blocks=trim, lstrip_blocks=lstrip)
        jinja = reader.from_string(template.jinja())
        assert jinja.render(messages=messages, bos_token="<s>") == template.text(given, bos="<s>")


@pytest.mark.parametrize("name", NAMES)
def test_the_jinja_needs_only_what_small_readers_have(name: str) -> None:
    """llama.cpp reads templates with its own small Jinja."""
    source = read_template(name).jinja()
    tree = jinja2.Environment().parse(source)
    filters = {node.name for node in tree.find_all(nodes.Filter)}
    calls = [node.node for node in tree.find_all(nodes.Call)]
    assert filters <= {"trim"}
    assert {call.name for call in calls if isinstance(call, nodes.Name)} == {"raise_exception"}
    assert all(isinstance(call, nodes.Name) for call in calls), "no method is called"
    assert not list(tree.find_all((nodes.Macro, nodes.Test, nodes.CondExpr, nodes.TemplateData)))
    assert ("bos_token" in source) == read_template(name).bos


BAD_ROLES = {
    "none": [],
    "answer first": [Turn("assistant", "A")],
    "two questions": turns("Q", "A") + turns("Q") + turns("Q"),
    "two answers": [*turns("Q", "A"), Turn("assistant", "A")],
    "a later system turn": [*turns("Q", "A"), Turn("system", "S")],
    "two system turns": [Turn("system", "S"), *turns("Q", system="S")],
}


@pytest.mark.parametrize("given", BAD_ROLES.values(), ids=BAD_ROLES)
@pytest.mark.parametrize("name", NAMES)
def test_roles_out_of_turn_are_refused_here_and_in_the_jinja(name: str, given: list[Turn]) -> None:
    template = read_template(name)
    with pytest.raises(ConfigError, match="must be user and assistant in turn, after at most one"):
        template.segments(given)
    with pytest.raises(jinja2.TemplateError):
        rendered(template, given)


def test_generation_needs_a_question_at_the_end() -> None:
    with pytest.raises(ConfigError, match=r"roles = user, assistant: must end with the user's"):
        read_template("vicuna_v1").segments(turns("Q", "A"), generate=True)


def test_pieces_are_special_tokens_and_texts_with_their_labels() -> None:
    given = turns("Q</s>", "A", system="S")
    assert read_template("vicuna_v1").segments(given) == [
        Segment(BOS, special=True, supervised=False),
        Segment("S", special=False, supervised=False),
        Segment(" ", special=False, supervised=False),
        Segment("USER: ", special=False, supervised=False),
        Segment("Q</s>", special=False, supervised=False),
        Segment(" ", special=False, supervised=False),
        Segment("ASSISTANT:", special=False, supervised=False),
        Segment(" ", special=False, supervised=True),
        Segment("A", special=False, supervised=True),
        Segment("</s>", special=True, supervised=True),
    ]


def test_a_system_turn_takes_the_default_ones_place_even_if_empty() -> None:
    template = read_template("vicuna_v1")
    assert template.text(turns("Q", system="")) == " USER: Q "
    assert template.text(turns("Q")) == f"{S} USER: Q "
    # Where there is no place for a system text, an empty one leaves no blank line behind.
    assert read_template("mistral").text(turns("Q", system="")) == "[INST] Q "


def test_white_space_around_contents_goes_where_the_format_says_so() -> None:
    given = turns(" Q\n", "\n A ", system=" S ")
    assert read_template("gemma").prompt_text(given[:-1]) == (
        "<start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\n"
    )
    assert "user\n Q\n<|im_end|>" in read_template("chatml").text(given)


def test_the_jinja_quotes_whatever_a_users_own_forms_hold(tmp_path: Path) -> None:
    hostile = "it's \"{{ x }}\" {% if %} back\\slash \\n \\' {# \r\n naïve 日本 "
    forms: dict[str, Any] = {"user": hostile + "{content}" + hostile, "between": hostile}
    forms |= {"prompt": hostile, "specials": ["<|im_end|>"]}
    for system in ({"default_system": hostile}, {"system": None, "folded_system": "{content}'\\"}):
        template = read_template(own(tmp_path, **forms, **system))
        given = turns("Q", "A", "Q", "A")
        for conversation in (given, turns("Q", "A", "Q", "A", system=hostile)):
            assert rendered(template, conversation) == template.text(conversation)
            prompt = rendered(template, conversation[:-1], generate=True)
            assert prompt == template.prompt_text(conversation[:-1])
        assert template.text(given).count(hostile) >= 6


def test_the_hash_covers_the_format_and_not_the_remarks(tmp_path: Path) -> None:
    first = read_template("chatml")
    assert read_template(own(tmp_path, about="other words")).sha256 == first.sha256
    assert read_template(own(tmp_path, between="")).sha256 != first.sha256
    assert read_template(own(tmp_path, strip=True)).sha256 != first.sha256
    assert len({read_template(name).sha256 for name in NAMES}) == len(NAMES)


def own(folder: Path, **changed: Any) -> Path:
    """Write a user's own template: chatml's with some fields changed, None leaving one out."""
    value = yaml.safe_load((TEMPLATES / "chatml.yaml").read_text()) | changed
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in value.items() if v is not None}))
    return path


def test_a_users_own_file_is_a_template(tmp_path: Path) -> None:
    template = read_template(own(tmp_path, user="<|im_start|>human\n{content}<|im_end|>\n"))
    assert template.name == "mine"
    assert template.text(turns("{")).startswith("<|im_start|>human\n{<|im_end|>\n")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"user": "USER: "}, "template mine: user = USER: : must contain {content} once."),
        ({"assistant": "{content}{content}"}, "assistant = {content}{content}: must contain {cont"),
        ({"prompt": "{content}"}, "template mine: prompt = {content}: must not contain {content}."),
        ({"end": ""}, "template mine: end = : must not be empty. A model that learns no end does"),
        ({"folded_system": "{content}"}, "is given together with 'system'. Give one of the two."),
        (
            {"system": None, "default_system": "S"},
            "default_system = S: needs a form that says where",
        ),
        ({"specials": ["<|im_start|>", ""]}, "must name each token once, and no empty one"),
        ({"specials": ["<|eot|>"]}, "names '<|eot|>', which no form contains. Leave it out, or"),
        ({"bos": "yes"}, "template: bos = yes: must be true or false (in "),
        ({"user": 3}, "template: user = 3: must be a string, in quotes where it begins or ends"),
        ({"stop": "x"}, "template: stop = x: must be a list of strings (in "),
        ({"usr": "x"}, "template: usr = x: is not a field of a template (in "),
        ({"usr": "x"}, "; did you mean 'user'?"),
        ({"between": None}, "template: between = (not given): is missing (in "),
    ],
)
def test_a_file_that_is_no_template_is_refused_by_field(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_template(own(tmp_path, **changed))
    assert message in str(caught.value)


def test_what_is_neither_file_nor_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.template = vicuna: .*did you mean 'vicuna_v1'"):
        read_template("vicuna", field="data.template")
    (tmp_path / "a.yaml").write_text("- x")
    with pytest.raises(ConfigError, match="must hold 'field: value' lines"):
        read_template(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_template(tmp_path / "a.yaml")
