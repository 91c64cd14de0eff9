import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.reader import TokenDataset
from tests.shards.conftest import IDENTITY, Cli, MakeDataset, receipt


def test_json_numbers_are_the_manifest_s_sums(small_dataset: Path, cli: Cli) -> None:
    code, out, _ = cli("shards", "info", small_dataset, "--seq_len", 64, "--json", "true")
    assert code == 0
    shown = json.loads(out)
    rows = pq.read_table(small_dataset / "manifest.parquet").to_pylist()
    by_subset = {
        name: [row for row in rows if row["subset"] == name] for name in shown["subsets"]
    } | {"total": rows}
    assert set(by_subset) == {row["subset"] for row in rows} | {"total"}
    for name, mine in by_subset.items():
        told = shown["subsets"][name] if name != "total" else shown["total"]
        assert told["buckets"] == len(mine)
        for count in ("documents", "tokens", "train_tokens", "bytes_in", "bad_records"):
            assert told[count] == sum(row[count] for row in mine)
        assert told["heldout_tokens"] == told["tokens"] - told["train_tokens"]
        assert told["bytes_per_token"] == pytest.approx(told["bytes_in"] / told["tokens"])
        samples = [(row["train_tokens"] - 1) // 64 for row in mine]
        assert told["samples"] == sum(samples)
        # Whole samples, the tail, and each bucket's first token, which nothing precedes.
        assert told["samples"] * 64 + told["tail_tokens"] + len(mine) == told["train_tokens"]
    dataset = TokenDataset(small_dataset)
    assert shown["fingerprint"] == dataset.fingerprint
    assert shown["tokenizer_sha256"] == dataset.identity.tokenizer_sha256


def test_without_a_mixture_and_a_budget_every_subset_has_one_epoch(
    small_dataset: Path, cli: Cli
) -> None:
    shown = json.loads(cli("shards", "info", small_dataset, "--json", "true")[1])
    assert shown["budget_tokens"] == shown["total"]["samples"] * 2048
    assert shown["total"]["epochs"] == 1
    for subset in shown["subsets"].values():
        assert subset["epochs"] == pytest.approx(1, rel=1e-3)  # shares come in 65,536ths


def test_epochs_follow_from_budget_share_and_samples(
    make_dataset: MakeDataset, tmp_path: Path, cli: Cli
) -> None:
    dataset = make_dataset({"a": [[401]], "b": [[101]], "c": [[201]]})
    path = tmp_path / "mixture.yaml"
    path.write_text("a: 3\nb: 1\n")
    options = (dataset.folder, "--mixture", path, "--seq_len", 10)
    code, out, _ = cli("shards", "info", *options, "--budget_tokens", "1.6e3", "--json", "true")
    shown = json.loads(out)
    assert code == 0
    # 1,600 tokens: 1,200 over a's 400 are 3 epochs, 400 over b's 100 are 4, c is not drawn.
    assert {name: s["share"] for name, s in shown["subsets"].items()} == {
        "a": 0.75,
        "b": 0.25,
        "c": 0,
    }
    assert {name: s["epochs"] for name, s in shown["subsets"].items()} == {"a": 3, "b": 4, "c": 0}
    assert shown["remarks"] == [f"mixture {path}: the weights sum to 4 and are normalised to 100 %"]


def test_a_mixture_of_epochs_is_shown_as_the_run_that_it_asks_for(
    make_dataset: MakeDataset, tmp_path: Path, cli: Cli
) -> None:
    dataset = make_dataset({"a": [[401]], "b": [[101]], "c": [[201]]})
    path = tmp_path / "mixture.yaml"
    path.write_text("epochs:\n  a: 1.5\n  b: 2\n")
    options = (dataset.folder, "--mixture", path, "--seq_len", 10)
    shown = json.loads(cli("shards", "info", *options, "--json")[1])
    # a 40 samples 1.5 times, b 10 samples twice: 60 + 20 samples of 10 tokens.
    assert shown["budget_tokens"] == 800
    subsets = shown["subsets"].items()
    assert {name: s["share"] for name, s in subsets} == {"a": 0.75, "b": 0.25, "c": 0}
    assert {name: s["epochs"] for name, s in subsets} == {"a": 1.5, "b": 2, "c": 0}
    assert shown["remarks"] == [f"mixture {path}: its epochs come to 80 samples"]
    code, out, _ = cli("shards", "info", *options, "--budget_tokens", 1600)
    rows = [line.split() for line in out.splitlines()]
    assert code == 0 and f"note: {shown['remarks'][0]}" in out
    assert [row[-1] for row in rows if row[:1] in (["a"], ["b"])][-2:] == ["3.000", "4.000"]


def test_the_table_shows_totals_and_remarks(make_dataset: MakeDataset, cli: Cli) -> None:
    dataset = make_dataset({"[red]": [[3000], [2500]], "tiny": [[7]]})
    code, out, _ = cli("shards", "info", dataset.folder)
    assert code == 0
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert dataset.fingerprint in out and dataset.identity.tokenizer_sha256 in out
    assert "[red]" in lines
    assert "5,507" in out and "note: subset 'tiny' is left out: it has no whole sample" in out


@pytest.mark.parametrize("columns", [None, 60])
def test_the_tables_fit_the_width_that_is_told_and_have_no_blanks_at_their_ends(
    small_dataset: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, columns: int | None
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = cli("shards", "info", small_dataset, "--seq_len", 64)
    assert code == 0
    lines = out.splitlines()
    assert lines == [line.rstrip() for line in lines]
    table = lines[lines.index("content") + 1 :][: 2 + len(TokenDataset(small_dataset).subsets)]
    is_cut = re.search(r"\(no room for [^)]*bad records", " ".join(out.split())) is not None
    assert is_cut == (columns is not None) == ("bad records" not in table[0])
    assert max(map(len, table)) <= (columns or 200)


@pytest.mark.parametrize(("bad", "shown"), [(0, False), (7, True)])
def test_a_narrow_table_leaves_out_bad_records_only_if_there_are_none(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int, shown: bool
) -> None:
    """RedPajama's own numbers at 80 columns."""
    tokens = {"arxiv": 28 * 10**9, "c4": 175 * 10**9, "common_crawl": 878 * 10**9}
    receipts = [
        replace(
            receipt(subset, 0, [10]), documents=220 * 10**6, tokens=count, bad_records=bad,
            train_tokens=count - 438_999_000,
        )
        for subset, count in tokens.items()
    ]  # fmt: skip
    (tmp_path / "large").mkdir()
    write_dataset(tmp_path / "large", IDENTITY, receipts)
    monkeypatch.setenv("COLUMNS", "80")
    options = ("--mixture", "redpajama", "--budget_tokens", "1.3e12")
    code, out, _ = cli("shards", "info", tmp_path / "large", *options)
    _, *lines = out.splitlines()  # the first has the path
    assert code == 0 and max(map(len, lines)) <= 80
    heading = lines[lines.index("content") + 1]
    assert ("bad records" in heading) is shown and "documents" in heading and "tokens" in heading


def test_the_keys_of_the_json_are_those_of_the_documentation(
    make_dataset: MakeDataset, cli: Cli
) -> None:
    dataset = make_dataset({"a": [[30, 40]]})
    shown = json.loads(cli("shards", "info", dataset.folder, "--seq_len", 10, "--json")[1])
    page = (Path(__file__).parents[2] / "docs/inspecting.md").read_text()
    section = page.partition("## The JSON of `shards info`")[2].partition("\n## ")[0]
    keys = re.findall(r"^\| `(\w+)` \|", section, re.M)
    assert keys == [*shown, *shown["total"]]
    assert (
        shown["subsets"].keys() == {"a"} and shown["total"].keys() == shown["subsets"]["a"].keys()
    )


def test_a_dataset_too_small_for_one_sample_is_still_described(
    make_dataset: MakeDataset, cli: Cli
) -> None:
    dataset = make_dataset({"a": [[20]]})
    code, out, _ = cli("shards", "info", dataset.folder)
    assert code == 0
    assert "note: no subset has a whole sample of seq_len 2048" in out


def test_a_reader_that_leaves_ends_it_as_other_commands(small_dataset: Path) -> None:
    command = f"{sys.executable} -m mobilellama shards info {small_dataset}"
    script = f"{command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget_tokens", 0), "budget_tokens = 0.0: must be at least 1. Give 1 or more."),
        (("--seq_len", 0), "seq_len = 0: must be at least 1. Give 1 or more."),
        (("--seq_len", 10**20), f"seq_len = {10**20}: must be at most 2,147,483,648. Give the"),
        (
            ("--budget_tokens", "1e300"),
            "budget_tokens = 1e+300: must be at most 1e+18. Give the to",
        ),
        (("--mixture", "none.yaml"), "mixture = none.yaml: is neither a file nor a preset"),
        (("--budgettokens", 5), "did you mean '--budget_tokens'?"),
    ],
)
def test_bad_settings_are_one_message_and_exit_code_2(
    small_dataset: Path, cli: Cli, options: tuple[object, ...], message: str
) -> None:
    code, out, err = cli("shards", "info", small_dataset, *options)
    assert (code, out) == (2, "")
    assert message in err and err.startswith("mobilellama: error: ") and err.count("\n") == 1


def test_absent_subsets_of_a_preset_are_a_note(small_dataset: Path, cli: Cli) -> None:
    code, out, _ = cli("shards", "info", small_dataset, "--mixture", "redpajama")
    assert code == 0
    (note,) = [line for line in out.splitlines() if line.startswith("note: mixture redpajama")]
    assert note.endswith("common_crawl 88.27 %, github 5.87 %, wikipedia 5.87 %")
