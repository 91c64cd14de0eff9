"""A dataset with bad records, copies and texts that would like to be markup."""

import json
import shutil
from pathlib import Path

import pytest
import zstandard

from mobilellama.tokenize.main import main as tokenize_main

HOSTILE = "<script>document.title = 'owned'</script> </pre></body> & \"quoted\" 'text' \x1b[2J"
BAD_LINES = ['{"text": "<script>alert(1)</script>', '{"txt": "no <b>text</b>"}', "[1]"]
SHARED_TEXT = "This text stands in two subsets."


def _line(text: str) -> str:
    return json.dumps({"text": text, "meta": {}})


@pytest.fixture(scope="session")
def odd_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subsets: 46, 7 and 1 documents."""
    root = tmp_path_factory.mktemp("odd_corpus")
    good = [_line(f"Text number {i}, " + "word " * (i + 1)) for i in range(40)]
    c4 = [*good[:20], *BAD_LINES, *[_line(HOSTILE)] * 4, *good[20:], _line(SHARED_TEXT), good[3]]
    crawl = [*[_line(f"A page of {'long ' * 40 * i}") for i in range(1, 5)], "{"]
    crawl += [_line(SHARED_TEXT)] * 3 + [_line("")]
    files = {
        "c4/c4-train.00000-of-01024.jsonl": c4,
        "common_crawl/2023-06/en_head_0000.json.gz.dedup.classifier.jsonl.zst": crawl,
        "wikipedia/wiki.jsonl": [_line("An article. " * 300)],
    }
    for name, lines in files.items():
        path = root / name
        path.parent.mkdir(parents=True)
        data = "".join(f"{line}\n" for line in lines).encode()
        path.write_bytes(zstandard.compress(data) if path.suffix == ".zst" else data)
    return root


@pytest.fixture(scope="session")
def odd_dataset(
    odd_corpus: Path, small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The dataset that 'tokenize run' makes of it."""
    path = tmp_path_factory.mktemp("odd_dataset") / "odd & <b>"
    arguments = ["--tokenizer", str(small_tokenizer), "--sources.root", str(odd_corpus)]
    arguments += ["--output", str(path), "--heldout_share", "0.1", "--workers", "1"]
    assert tokenize_main(["run", *arguments]) == 0
    return path


@pytest.fixture(scope="session")
def _rows(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mobilellama.sft.main import main as sft_main

    folder = tmp_path_factory.mktemp("conversations")
    turns = [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": HOSTILE}]
    records = [{"id": str(i), "conversations": turns} for i in range(8)]
    records += [{"id": "none"}, {"id": "empty", "conversations": []}]
    (folder / "chats.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    arguments = ["--tokenizer", str(small_tokenizer), "--seq_len", "128", "--heldout_share", "0"]
    arguments += ["--data.path", str(folder / "chats.jsonl"), "--output", str(folder / "rows")]
    assert sft_main(["prepare", *arguments, "--data.format", "sharegpt"]) == 0
    return folder / "rows"


@pytest.fixture
def prepared_rows(_rows: Path, tmp_path: Path) -> Path:
    """A dataset of packed conversations, of which two records were dropped; a copy to change."""
    return shutil.copytree(_rows, tmp_path / "rows")
