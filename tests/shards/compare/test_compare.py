import json
import shutil
from pathlib import Path

import pytest

from mobilellama.shards.compare.compare import compare
from mobilellama.shards.permute import Permutation
from mobilellama.shards.reader import TokenDataset
from tests.shards.compare.conftest import TEXTS, Tokenise, write_corpus
from tests.shards.conftest import Cli


def test_a_copy_is_the_same_and_exit_code_0(plain: Path, tmp_path: Path, cli: Cli) -> None:
    first = plain
    copy = shutil.copytree(first, tmp_path / "copy")
    fingerprint = TokenDataset(first).fingerprint
    code, out, err = cli("shards", "compare", first, copy)
    assert (code, err) == (0, "")
    assert out == (
        f"first   {first}\nsecond  {copy}\n\nsame: both have fingerprint {fingerprint}\n"
    )
    shown = json.loads(cli("shards", "compare", first, copy, "--json")[1])
    assert shown["is_same"] is True and shown["fingerprints"] == [fingerprint] * 2
    assert shown["fields"] == shown["differences"] == shown["causes"] == []
    assert shown["subsets"]["c4"]["equal_buckets"] == 1


def test_one_changed_document_is_found_with_its_text(
    plain: Path, tokenise: Tokenise, corpus: Path, cli: Cli
) -> None:
    first = plain
    texts = list(TEXTS)
    texts[17] = texts[17].replace("own", "good")
    write_corpus(corpus, texts, ("wikipedia",))
    second = tokenise("b")
    compared = compare(TokenDataset(first), TokenDataset(second))
    assert not compared.is_same and compared.fields == []
    (difference,) = compared.differences
    assert difference.bucket == "wikipedia/00000" and difference.kind == "ids"
    identity = TokenDataset(first).identity
    place = int(Permutation(60, identity.seed, "wikipedia", 0).inverse(17))
    assert difference.first.document == difference.second.document == place
    assert difference.first.text is not None and difference.second.text is not None
    assert "own" in difference.first.text and "good" in difference.second.text
    assert difference.first.text.partition("own")[0] == difference.second.text.partition("good")[0]
    code, out, _ = cli("shards", "compare", first, second)
    assert code == 1
    lines = out.splitlines()
    assert [line.split() for line in lines if line.startswith("c4 ")] == [
        ["c4", "60", "0", f"{TokenDataset(first).totals['c4']['tokens']:,}", "0", "1", "0", "0"]
    ]
    assert f"bucket wikipedia/00000: the first id that differs is token {difference.token:,}" in out
    assert f"document {place}, token {difference.first.offset} of it" in out
    assert lines[-2:] == [
        "different:", "- the corpus was changed: wikipedia/a.jsonl had other bytes",
    ]  # fmt: skip


def test_another_tokenizer_and_a_missing_subset_are_told(
    plain: Path, tokenise: Tokenise, corpus: Path, small_tokenizer: Path, tmp_path: Path, cli: Cli
) -> None:
    first = plain
    shutil.rmtree(corpus / "c4")
    other = tmp_path / "other.model"
    model = small_tokenizer.read_bytes()
    other.write_bytes(model.replace(b"\xe2\x96\x81the", b"\xe2\x96\x81tha", 1))
    second = tokenise("b", tokenizer=other)
    code, out, _ = cli("shards", "compare", first, second, "--json")
    shown = json.loads(out)
    assert code == 1
    assert [one["field"] for one in shown["fields"]] == ["tokenizer_sha256"]
    assert shown["subsets"]["c4"]["second"] is None
    assert shown["subsets"]["c4"]["only_in_first"] == ["c4/00000"]
    assert shown["causes"][:2] == [
        "another tokenizer gives other ids (tokenizer_sha256)",
        "other files were tokenised: only the first has c4/a.jsonl",
    ]
    code, out, _ = cli("shards", "compare", first, second)
    rows = [line.split() for line in out.splitlines()]
    tokens = TokenDataset(first).totals["c4"]["tokens"]
    assert ["c4", "60", "-60", f"{tokens:,}", f"-{tokens:,}", "0", "0", "1"] in rows
    assert any(row[:1] == ["tokenizer_sha256"] and len(row) == 3 for row in rows)


def test_ids_alone_are_shown_where_the_tokenizer_is_lost(
    plain: Path, tokenise: Tokenise, tmp_path: Path, cli: Cli
) -> None:
    first, second = shutil.copytree(plain, tmp_path / "a"), tokenise("b", "--seed", 3)
    (first / "tokenizer.model").unlink()
    compared = compare(TokenDataset(first), TokenDataset(second))
    assert {one.first.text for one in compared.differences} == {None}
    assert all(one.second.text for one in compared.differences)
    code, out, _ = cli("shards", "compare", first, second)
    assert code == 1 and out.count("  first   ids   ") == 2 and out.count("  second  text  ") == 2


def test_all_lines_fit_80_columns(
    plain: Path, tokenise: Tokenise, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = plain, tokenise("b", "--seed", 3)
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli("shards", "compare", first, second)[1].splitlines()
    table = [line for line in lines if line.startswith(("subset", "c4", "wikipedia", "seed"))]
    assert len(table) == 4 and max(map(len, lines)) <= 80
    assert sum(line.startswith("  first   ids   ") for line in lines) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a",), "OTHER = (not given): is required."),
        ((), "DATASET, OTHER = (not given): are required."),
        (("a", "b", "c"), "DATASET = c: is one word too many; the command takes DATASET and OTHER"),
        (
            ("a", "gone"),
            "other = gone: is not a folder. Give the --output of 'mobilellama tokenize",
        ),
        (("gone", "a"), "dataset = gone: is not a folder. Give the --output of"),
    ],
)
def test_bad_arguments_are_one_message_and_exit_code_2(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli,
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    (tmp_path / "a").symlink_to(plain)
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("shards", "compare", *arguments)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err
