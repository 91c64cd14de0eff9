"""Conversations about the standard library, made from its sources, in ShareGPT's form.

Each class, function and method with a docstring gives one conversation of two exchanges, in
either order:

    human   What kind of object is `argparse.ArgumentParser.parse_known_args`?
    gpt     It is a public method.
    human   What does `argparse.ArgumentParser.parse_known_args` do?
    gpt     ...                                               the docstring's first sentence

The first has an exact answer that a name gives away to whoever has learnt how Python is written:
capitals, underscores, "Error". Of the definitions with the same last name only one is taken, so
that nothing in the training set shares a name with anything held out.
"""

import ast
import builtins
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corpus import LIBRARY, python_files

KIND = "What kind of object is `{}`?"
PURPOSE = "What does `{}` do?"

_EXCEPTIONS = {
    name for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}  # fmt: skip
_SENTENCE = re.compile(r".{1,160}?[.!?](?=\s|$)")


@dataclass(frozen=True)
class Subject:
    """A definition to ask about."""

    name: str
    """Dotted, with its module."""
    kind: str
    """class, exception, function or method."""
    purpose: str
    """Its docstring's first sentence."""

    @property
    def kind_answer(self) -> str:
        """What kind of object it is, as a sentence."""
        parts = self.name.split(".")
        access = "private" if any(part.startswith("_") for part in parts) else "public"
        return f"It is a {access} {self.kind}."

    @property
    def lot(self) -> bytes:
        """A number drawn for its name, the same on every machine."""
        return hashlib.md5(self.name.encode()).digest()


def build_instructions(
    folder: Path,
    *,
    library: Path = LIBRARY,
    most_of_an_answer: int = 450,
    heldout: int = 200,
) -> int:
    """Write train.json (ShareGPT) and heldout.jsonl (prompts with the answers expected).

    Args:
        folder: made if missing.
        library: folder of the sources that are asked about.
        most_of_an_answer: subjects with the same kind of object, so that no answer is right
            too often.
        heldout: subjects that are left out of train.json and asked about in heldout.jsonl.

    Returns:
        The number of conversations in train.json.
    """
    taken: Counter[str] = Counter()
    chosen = []
    for subject in sorted(find_subjects(library), key=lambda subject: subject.lot):
        if taken[subject.kind_answer] < most_of_an_answer:
            taken[subject.kind_answer] += 1
            chosen.append(subject)
    # In another order than they were taken in: the rare answers were taken to the end.
    chosen.sort(key=lambda subject: subject.lot[::-1])
    folder.mkdir(parents=True, exist_ok=True)
    train = [_conversation(subject) for subject in chosen[heldout:]]
    (folder / "train.json").write_text(json.dumps(train, indent=1) + "\n", encoding="utf-8")
    asked = (
        {"prompt": KIND.format(subject.name), "expected": subject.kind_answer}
        for subject in chosen[:heldout]
    )
    lines = (json.dumps(row) + "\n" for row in asked)
    (folder / "heldout.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(train)


def _conversation(subject: Subject) -> dict[str, object]:
    exchanges = [
        (KIND.format(subject.name), subject.kind_answer),
        (PURPOSE.format(subject.name), subject.purpose),
    ]
    turns = []
    for question, answer in exchanges[:: 1 if subject.lot[-1] % 2 else -1]:
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": subject.name, "conversations": turns}


def find_subjects(library: Path) -> Iterator[Subject]:
    """Yield a library's documented definitions, one of each last name."""
    seen = set()
    for path, text in python_files(library):
        parts = path.with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        for subject in _subjects(tree, module, set(_EXCEPTIONS)):
            last = subject.name.rpartition(".")[2]
            if last not in seen and not last.startswith("__"):
                seen.add(last)
                yield subject


def _subjects(
    node: ast.Module | ast.ClassDef, owner: str, exceptions: set[str]
) -> Iterator[Subject]:
    """Yield a module's or class's definitions, at any depth of classes.

    Args:
        node: where to look.
        owner: its dotted name.
        exceptions: names of exceptions known so far; those found are added.
    """
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            bases = {ast.unparse(base).rpartition(".")[2] for base in child.bases}
            if bases & exceptions:
                exceptions.add(child.name)
            kind = "exception" if bases & exceptions else "class"
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "method" if isinstance(node, ast.ClassDef) else "function"
        else:
            continue
        name = f"{owner}.{child.name}"
        paragraph, _, _ = (ast.get_docstring(child) or "").partition("\n\n")
        if sentence := _SENTENCE.match(" ".join(paragraph.split())):
            yield Subject(name, kind, sentence[0])
        if isinstance(child, ast.ClassDef):
            yield from _subjects(child, name, exceptions)
