"""A corpus from texts that are on any machine with Python, laid out as RedPajama v1 is.

    github/          the standard library's sources
    stackexchange/   questions and answers made from its docstrings
    wikipedia/       the language reference's help topics
    c4/              the descriptions that installed packages ship
    common_crawl/    docstrings of installed packages, .jsonl.zst

File names and record fields are RedPajama's; only the texts are other ones.
"""

import ast
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import zstandard

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
PACKAGES = Path(sysconfig.get_paths()["purelib"])
# encodings is tables of character names; the others are tests, programs and caches.
_LEFT_OUT = {
    "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings",
    "__pycache__",
}  # fmt: skip

Record = dict[str, Any]
Definition = ast.Module | ast.ClassDef | ast.FunctionDef


def build_corpus(root: Path, *, subset_mb: float = 6.0) -> dict[str, int]:
    """Write the corpus, at most `subset_mb` million bytes of text a subset.

    Returns:
        Bytes of text in each subset.
    """
    limit = int(subset_mb * 1e6)
    dump = "common_crawl/2023-06/en_{}_0000.json.gz.dedup.classifier.jsonl.zst"
    sources = list(_limited(_library_sources(), limit))
    crawl = list(_limited(_package_docstrings(), limit))
    files = {
        f"github/filtered_{'0' * 31}1.sampled.jsonl": sources[0::2],
        f"github/filtered_{'0' * 31}2.sampled.jsonl": sources[1::2],
        "stackexchange/stackexchange.jsonl": list(_limited(_questions(), limit)),
        "wikipedia/wiki.jsonl": list(_limited(_help_topics(), limit)),
        "c4/c4-train.00000-of-01024.jsonl": list(_limited(_descriptions(), limit)),
        dump.format("head"): crawl[0::2],
        dump.format("middle"): crawl[1::2],
    }
    sizes: dict[str, int] = {}
    for name, records in files.items():
        _write(root / name, records)
        subset = name.split("/")[0]
        sizes[subset] = sizes.get(subset, 0) + sum(len(r["text"].encode()) for r in records)
    return sizes


def _write(path: Path, records: list[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(zstandard.compress(data) if path.suffix == ".zst" else data)


def _limited(records: Iterator[Record], limit: int) -> Iterator[Record]:
    """Yield records without repeated texts until `limit` bytes of text are reached."""
    seen, size = set(), 0
    for record in records:
        text = record["text"].encode()
        digest = hashlib.md5(text).digest()
        if digest in seen:
            continue
        if size + len(text) > limit:
            return
        seen.add(digest)
        size += len(text)
        yield record


def python_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield (path relative to root, text) of the sources below a folder, in a fixed order."""
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _LEFT_OUT & set(relative.parts):
            try:
                yield relative, path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue


def _library_sources() -> Iterator[Record]:
    for path, text in python_files(LIBRARY):
        lines = text.splitlines() or [""]
        letters = sum(character.isalnum() for character in text)
        yield {
            "text": text,
            "meta": {
                "content_hash": hashlib.md5(text.encode()).hexdigest(),
                "timestamp": "",
                "source": "github",
                "line_count": len(lines),
                "max_line_length": max(map(len, lines)),
                "avg_line_length": sum(map(len, lines)) / len(lines),
                "alnum_prop": letters / max(len(text), 1),
                "repo_name": "python/cpython",
                "path": f"Lib/{path.as_posix()}",
            },
        }


def _docstrings(root: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield (module, [(dotted name, docstring), ...]) of the sources below a folder."""
    for path, text in python_files(root):
        module = ".".join(path.with_suffix("").parts)
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        found = []
        for node in _definitions(tree):
            docstring = ast.get_docstring(node)
            if docstring and len(docstring) > 40:
                found.append((f"{module}.{getattr(node, 'name', '')}".rstrip("."), docstring))
        yield module, found


def _definitions(node: Definition) -> Iterator[Definition]:
    """Yield the module, class or function and those inside it; ten times ast.walk's speed."""
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            yield from _definitions(child)


def _questions() -> Iterator[Record]:
    pairs = (pair for _, found in _docstrings(LIBRARY) for pair in found)
    for name, docstring in pairs:
        yield {
            "text": f"Q: What does {name} do?\n\nA: {docstring}",
            "meta": {
                "language": "en",
                "url": f"https://docs.python.org/3/search.html?q={name}",
                "timestamp": "2023-03-29",
                "source": "stackexchange",
                "question_score": "1",
            },
        }


def _help_topics() -> Iterator[Record]:
    for title, text in sorted(topics.items()):
        yield {
            "text": text,
            "meta": {
                "title": title,
                "url": f"https://docs.python.org/3/search.html?q={title}",
                "language": "en",
                "timestamp": "20230320",
            },
        }


def _descriptions() -> Iterator[Record]:
    found = sorted(metadata.distributions(), key=lambda item: str(item.metadata["Name"]))
    for distribution in found:
        # The description is the metadata file's body, below a blank line.
        _, _, text = (distribution.read_text("METADATA") or "").partition("\n\n")
        if text.strip():
            name = distribution.metadata["Name"]
            meta = {"timestamp": "2019-04-25T12:57:54Z", "url": f"https://example.org/{name}"}
            yield {"text": text, "meta": meta | {"language": "en", "source": "c4"}}


def _package_docstrings() -> Iterator[Record]:
    """Yield the docstrings of installed packages, a document for each module."""
    for line, (module, found) in enumerate(_docstrings(PACKAGES)):
        if found:
            yield {
                "text": "\n\n".join(f"{name}\n\n{docstring}" for name, docstring in found),
                "pred_label": "__label__wiki",
                "pred_label_prob": 0.9,
                "wiki_prob": 0.9,
                "source": f"cc/2023-06/en_head_0000.json.gz/line{line}",
                "module": module,
            }
