"""Chat templates as data: from turns to text, segments with labels, and the Jinja that others read.

A template is a YAML file (or one of templates/). Its forms follow one another so; the words
marked ^ are supervised:

    vicuna_v1    <s>{system}·USER:·{question}·ASSISTANT:·{answer}</s>USER:·{question}·ASSISTANT:
                                                       ^^^^^^^^^^^^^^
    field        bos system  user             prompt    assistant end  between user   prompt

The answer and its end are learnt, and nothing else: what a model must write, and what others
write for it. An answer that its author marked as not to be learnt is written alike, without ^.
`between` stands before every later question only, so that a conversation ends
with its last answer.

1. ``segments`` cuts the forms at the special tokens. A turn's content is one segment of text as it
   stands: a special token that a user spells out is text.
2. ``text`` joins the segments; ``sft/data/labels.py`` makes token ids and labels of them.
3. ``jinja`` writes the same as a Jinja ``chat_template`` for transformers and llama.cpp.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from mobilellama.config import ConfigError, did_you_mean, one_line
from mobilellama.files.atomic import sha256_of_json
from mobilellama.files.presets import find_preset
from mobilellama.files.typed_json import from_json
from mobilellama.files.yaml_file import read_yaml
from mobilellama.sft.data.conversation import Turn

TEMPLATES = Path(__file__).parent / "templates"
CONTENT = "{content}"
BOS = "{bos}"
"""The text of the segment that stands for the tokenizer's own begin token, however it is spelt."""


class Segment(NamedTuple):
    """A stretch of a conversation that is one special token, or text."""

    text: str
    special: bool
    """Whether it is one special token; ``BOS`` stands for the tokenizer's own."""
    supervised: bool
    """Whether the model learns to write it."""
    context: bool = False
    """Whether it is of an answer that is not to be learnt; it has the ids of one that is."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """How turns are written for a model."""

    name: str
    """The preset's name, or the file's without its ending."""
    about: str
    """One line: whose format this is."""
    source: str
    """Where the format was read."""
    bos: bool
    """Whether the tokenizer's begin token comes first."""
    system: str | None = None
    """Form of a system text, with {content}; None: the format has no place for one."""
    folded_system: str | None = None
    """Form of a system text that is put before the first question instead, with {content}."""
    default_system: str | None = None
    """System text of a conversation that has none of its own; None: none. A system turn, an
    empty one too, takes its place."""
    user: str
    """Form of a question, with {content}."""
    prompt: str
    """What follows a question and asks for the answer; generation starts after it."""
    assistant: str
    """Form of an answer, with {content}; supervised."""
    end: str
    """What ends an answer; supervised."""
    between: str
    """What parts an answer from the next question."""
    specials: tuple[str, ...]
    """The special tokens in these forms, which become one id each."""
    stop: tuple[str, ...]
    """Tokens, special or not, that end generation, beside the tokenizer's end of text."""
    strip: bool = False
    """Whether contents lose the white space around them."""

    def __post_init__(self) -> None:
        for name in ("system", "folded_system", "user", "assistant"):
            form = getattr(self, name)
            if form is not None and form.count(CONTENT) != 1:
                self._refuse(name, f"must contain {CONTENT} once", "It stands for the turn's text")
        for name in ("prompt", "end", "between", "default_system"):
            if CONTENT in (getattr(self, name) or ""):
                rule = f"must not contain {CONTENT}"
                self._refuse(name, rule, "It is the same for every turn")
        if not self.end:
            self._refuse("end", "must not be empty", "A model that learns no end does not stop")
        if self.system is not None and self.folded_system is not None:
            self._refuse("folded_system", "is given together with 'system'", "Give one of the two")
        if self.default_system is not None and self.system is None and self.folded_system is None:
            remedy = "Give 'system' or 'folded_system' too"
            self._refuse("default_system", "needs a form that says where it is written", remedy)
        for name in ("specials", "stop"):
            tokens = getattr(self, name)
            if "" in tokens or len(set(tokens)) < len(tokens):
                self._refuse(name, "must name each token once, and no empty one", "Fix the list")
        written = "\0".join(form for form in self._forms if form)
        for token in self.specials:
            if token not in written:
                rule = f"names {token!r}, which no form contains"
                self._refuse("specials", rule, "Leave it out, or fix the form")

    def _refuse(self, field: str, rule: str, remedy: str) -> None:
        raise ConfigError(f"template {self.name}: {field}", getattr(self, field), rule, remedy)

    @property
    def _forms(self) -> tuple[str | None, ...]:
        return (
            *(self.system, self.folded_system, self.user),
            *(self.prompt, self.assistant, self.end, self.between),
        )

    @property
    def literals(self) -> tuple[str, ...]:
        """The texts of the forms that stand between special tokens and contents."""
        cut = [
            text
            for form in self._forms
            for part in (form or "").split(CONTENT)
            for text, special in self._cut(part)
            if not special
        ]
        return tuple(dict.fromkeys(cut))

    @cached_property
    def sha256(self) -> str:
        """sha256 of what decides the segments: every field but the name and the remarks."""
        about = ("name", "about", "source")
        return sha256_of_json({f.name: getattr(self, f.name) for f in fields(self)
                               if f.name not in about})  # fmt: skip

    @property
    def is_caption(self) -> bool:
        """Whether nothing is written around questions and answers: a first stage's template."""
        return self.user == CONTENT and not (self.prompt or self.default_system)

    def to_yaml(self) -> str:
        """Return the template as a file that ``read_template`` reads again."""
        import yaml

        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1 << 20)

    def segments(self, turns: Sequence[Turn], *, generate: bool = False) -> list[Segment]:
        """Return a conversation as special tokens and text, each supervised or not.

        Args:
            turns: perhaps a system turn, then user and assistant in turn.
            generate: whether to end with ``prompt``; the last turn is then the user's.

        Raises:
            ConfigError: the roles are not in this order, or the format has no place for a
                system text.
        """
        segments: list[Segment] = []

        def write(form: str, content: str = "", *, answer: Turn | None = None) -> None:
            supervised = answer is not None and answer.learnt
            labels = (supervised, answer is not None and not supervised)
            for text, special in self._cut_forms[form]:
                segments.append(Segment(content if text is None else text, special, *labels))

        system, turns = self._split_system(turns)
        self._require_roles(turns, generate=generate)
        if self.bos:
            segments.append(Segment(BOS, True, False))
        if system is not None and self.system is not None:
            write(self.system, system)
        for i, turn in enumerate(turns):
            content = turn.content.strip() if self.strip else turn.content
            if turn.role == "user":
                if i > 0:
                    write(self.between)
                elif system and self.folded_system is not None:
                    content = self.folded_system.replace(CONTENT, system) + content
                write(self.user, content)
            else:
                write(self.prompt)
                write(self.assistant, content, answer=turn)
                write(self.end, answer=turn)
        if generate:
            write(self.prompt)
        return [segment for segment in segments if segment.text]

    @cached_property
    def _cut_forms(self) -> dict[str, list[tuple[str | None, bool]]]:
        """The parts of each form, and whether each is a special token. None: the content."""
        found: dict[str, list[tuple[str | None, bool]]] = {}
        for form in {form for form in self._forms if form is not None}:
            head, content, tail = form.partition(CONTENT)
            found[form] = [
                *self._cut(head),
                *([(None, False)] if content else []),
                *self._cut(tail),
            ]
        return found

    def _cut(self, form: str) -> Iterator[tuple[str, bool]]:
        """Cut a form at its special tokens: each part, and whether it is one."""
        if not self.specials:
            yield form, False
            return
        longest_first = sorted(self.specials, key=len, reverse=True)
        pattern = "|".join(re.escape(token) for token in longest_first)
        for i, part in enumerate(re.split(f"({pattern})", form)):
            if part:
                yield part, i % 2 == 1

    def _split_system(self, turns: Sequence[Turn]) -> tuple[str | None, Sequence[Turn]]:
        """Return the system text, if any, and the other turns."""
        if not turns or turns[0].role != "system":
            return self.default_system, turns
        if self.system is None and self.folded_system is None:
            raise ConfigError(
                "turns",
                turns[0].content,
                f"is a system text, for which template {self.name} has no place",
                "Leave it out, or take another template",
            )
        content = turns[0].content
        return (content.strip() if self.strip else content), turns[1:]

    def _require_roles(self, turns: Sequence[Turn], *, generate: bool) -> None:
        roles = [turn.role for turn in turns]
        wanted = ["user", "assistant"] * (len(roles) // 2 + 1)
        rule = "must be user and assistant in turn, after at most one system turn"
        if roles == wanted[: len(roles)] and roles:
            if not generate or roles[-1] == "user":
                return
            rule = "must end with the user's, for an answer to follow"
        raise ConfigError("roles", ", ".join(roles) or "(none)", rule, "Fix the conversation")

    def text(self, turns: Sequence[Turn], *, generate: bool = False, bos: str = "") -> str:
        """Return a conversation as one string; `bos` is how the tokenizer spells its begin."""
        segments = self.segments(turns, generate=generate)
        return "".join(
            bos if segment.text == BOS and segment.special else segment.text for segment in segments
        )

    def prompt_text(self, turns: Sequence[Turn], *, bos: str = "") -> str:
        """Return what the model continues with its answer; the last turn is the user's."""
        return self.text(turns, generate=True, bos=bos)

    def jinja(self) -> str:
        """Return the Jinja ``chat_template`` that renders ``text``, or with
        ``add_generation_prompt`` what ``prompt_text`` gives.

        It uses nothing that llama.cpp's small Jinja lacks: set, if, for, +, a slice, trim.
        Every literal is a quoted string, which no white-space rule of a reader can change.
        """  # noqa: D205
        content = f"message['content']{' | trim' if self.strip else ''}"
        system = f"messages[0]['content']{' | trim' if self.strip else ''}"
        has_system = self.system is not None or self.folded_system is not None
        order = "{{- raise_exception('Roles must be user and assistant in turn') -}}"
        lines = ["{{- bos_token -}}"] if self.bos else []
        lines.append("{%- if messages[0]['role'] == 'system' -%}")
        if has_system:
            lines.append(f"{{%- set system = {system} -%}}")
            lines.append("{%- set turns = messages[1:] -%}")
            lines.append(_say(self.system, "system"))
        else:
            lines.append("{{- raise_exception('There is no place for a system text') -}}")
        lines.append("{%- else -%}")
        if has_system:
            lines.append(f"{{%- set system = {_quote(self.default_system or '')} -%}}")
        lines.append("{%- set turns = messages -%}")
        if self.default_system is not None:
            lines.append(_say(self.system, "system"))
        lines += [
            "{%- endif -%}",
            "{%- for message in turns -%}",
            f"{{%- set content = {content} -%}}",
            "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}",
            order,
            "{%- elif message['role'] == 'user' -%}",
        ]
        if self.between:
            lines.append("{%- if not loop.first -%}" + _say(self.between) + "{%- endif -%}")
        if self.folded_system is not None:
            folded = f"{_expression(self.folded_system, 'system')} + content"
            lines.append("{%- if loop.first and system -%}")
            lines.append(f"{{%- set content = {folded} -%}}")
            lines.append("{%- endif -%}")
        lines += [
            _say(self.user, "content"),
            "{%- elif message['role'] == 'assistant' -%}",
            _say(self.prompt + self.assistant + self.end, "content"),
            "{%- else -%}",
            order,
            "{%- endif -%}",
            "{%- endfor -%}",
        ]
        if self.prompt:
            lines.append("{%- if add_generation_prompt -%}" + _say(self.prompt) + "{%- endif -%}")
        return "\n".join(line for line in lines if line)


def _say(form: str | None, content: str = "") -> str:
    """Return the Jinja that writes a form, `content` being the variable's name."""
    return f"{{{{- {_expression(form, content)} -}}}}" if form else ""


def _expression(form: str, content: str) -> str:
    """Return a form as a Jinja expression: quoted strings and the variable, added."""
    head, found, tail = form.partition(CONTENT)
    return " + ".join(
        [*([_quote(head)] if head else []), *([content] if found else []),
         *([_quote(tail)] if tail else [])]
    )  # fmt: skip


def _quote(text: str) -> str:
    """Return a Jinja string of one line."""
    for plain, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(plain, escaped)
    return f"'{text}'"


def read_template(name_or_file: str | Path, *, field: str = "template") -> Template:
    """Read a template: a YAML file's, or the preset of that name.

    Raises:
        ConfigError: there is none, or a field is unknown, missing or breaks a rule.
    """
    path = find_preset(str(name_or_file), TEMPLATES, field)
    try:
        given = read_yaml(path)
    except ValueError as error:
        raise ConfigError(field, str(path), f"is not YAML ({one_line(error)})", _REMEDY) from None
    if not isinstance(given, dict):
        raise ConfigError(field, str(path), "must hold 'field: value' lines", _REMEDY)
    known = {f.name: f for f in fields(Template) if f.name != "name"}
    for name, value in given.items():
        if name not in known:
            near = did_you_mean(str(name), known)
            rule = f"is not a field of a template (in {path})"
            raise ConfigError(f"{field}: {name}", value, rule, _REMEDY + near)
        _require_type(f"{field}: {name}", value, known[name].type, path)
    for name, known_field in known.items():
        if name not in given and known_field.default is MISSING:
            rule = f"is missing (in {path})"
            raise ConfigError(f"{field}: {name}", "(not given)", rule, _REMEDY)
    return from_json(Template, given | {"name": path.stem})


_REMEDY = f"See the templates in {TEMPLATES}"


def _require_type(field: str, value: object, wanted: object, path: Path) -> None:
    """Raise ConfigError unless a YAML value is what the dataclass says."""
    if wanted == tuple[str, ...]:
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
        words = "a list of strings"
    elif wanted is bool:
        fits, words = isinstance(value, bool), "true or false"
    else:
        fits = isinstance(value, str) or (value is None and wanted is not str)
        words = "a string, in quotes where it begins or ends with a space"
    if not fits:
        raise ConfigError(field, value, f"must be {words} (in {path})", _REMEDY)
