import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellama.shards.order import open_order
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.showing.document import place_of_line
from mobilellama.shards.showing.render import render
from mobilellama.shards.showing.sample import describe_sample
from tests.shards.conftest import Cli


def test_show_prints_the_sample_that_the_order_has_at_the_position(
    small_dataset: Path, cli: Cli
) -> None:
    dataset = TokenDataset(small_dataset)
    mixture, windows = open_order(dataset, seq_len=120, mixture=None, seed=9)
    for position in (0, 5, 100_000):
        located = mixture.locate(position)
        view = windows[mixture.subsets[int(located.subset)]]
        code, out, _ = cli(
            "shards", "show", small_dataset, "--position", position,
            "--seq_len", 120, "--seed", 9,
        )  # fmt: skip
        assert code == 0
        assert out.startswith(f"position {position:,} (seed 9), epoch {int(located.epoch)}\n")
        described = describe_sample(dataset, view, int(located.sample))
        assert out.partition("\n")[2] == render(described) + "\n"


def test_heldout_positions_go_through_the_subsets_in_turn(small_dataset: Path, cli: Cli) -> None:
    dataset = TokenDataset(small_dataset)
    counts = [len(dataset.windows(name, 60, "heldout")) for name in dataset.subsets]
    options = (small_dataset, "--seq_len", 60, "--split", "heldout")
    first_of_last = sum(counts[:-1])
    code, out, _ = cli("shards", "show", *options, "--position", first_of_last)
    assert code == 0
    assert f"subset   {dataset.subsets[-1]}, sample 0 of {counts[-1]}" in out
    code, _, err = cli("shards", "show", *options, "--position", sum(counts))
    assert code == 2
    assert err == (
        f"mobilellama: error: position = {sum(counts)}: the dataset has {sum(counts)} held-out "
        f"samples of seq_len 60. Give 0 to {sum(counts) - 1}.\n"
    )


def test_only_the_dataset_s_own_tokenizer_decodes(
    small_dataset: Path, small_tokenizer: Path, tmp_path: Path, cli: Cli
) -> None:
    options = (small_dataset, "--seq_len", 60, "--position", 1)
    code, own, _ = cli("shards", "show", *options)
    assert code == 0
    assert cli("shards", "show", *options, "--tokenizer", small_tokenizer)[1] == own
    other = tmp_path / "other.model"
    model = small_tokenizer.read_bytes()
    other.write_bytes(model.replace(b"\xe2\x96\x81the", b"\xe2\x96\x81tha", 1))
    assert other.read_bytes() != model
    code, _, err = cli("shards", "show", *options, "--tokenizer", other)
    assert code == 2
    assert re.search(
        r"tokenizer = .*other\.model: has sha256 [0-9a-f]{12}, but .* was made with [0-9a-f]{12}\. "
        "Give the same sentencepiece model", err,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--position", -1), "position = -1: must be at least 0. Give 0 or more."),
        (("--position", 2**60), f"position = {2**60}: must be at most {2**53:,}."),
        (("--position", 0, "--seq_len", 0), "seq_len = 0: must be at least 1."),
        (("--position", 0, "--seq_len", 10**7), "seq_len = 10000000: no bucket of "),
        (("--position", 0, "--mixture", "redpyjama"), "mixture = redpyjama: is neither a file"),
        (
            ("--position", 0, "--split", "heldout", "--mixture", "redpajama"),
            "mixture = redpajama: does not apply to the held-out samples",
        ),
        (("--position", 0, "--split", "test"), "split"),
        (("--position", "first"), "position"),
        (("--positoin", 0), "did you mean '--position'?"),
        ((), "position = null: it, --document, --line or --text says what to show. Give one"),
        (("--position", 0, "--text", "a"), "text = a: is given beside --position, but one"),
        (("--document", 0), "document = 0: is used only with --bucket. Give --bucket, too."),
        (("--bucket", "c4/00000"), "bucket = c4/00000: is used only with --document."),
        (("--line", 1), "line = 1: is used only with --file."),
        (("--text", "a", "--seq_len", 5), "seq_len = 5: is used only with --position."),
        (("--text", "a", "--split", "heldout"), "split = heldout: is used only with --position."),
        (("--text", ""), "text = (empty): must not be empty."),
        (("--text", "a", "--subset", "gitub"), "did you mean 'github'?"),
        (("--text", "a", "--limit", 0), "limit = 0: must be at least 1."),
        (("--bucket", "github/9", "--document", 0), "is none of 5 buckets, such as common_crawl/"),
        (("--bucket", "github/00000", "--document", 10**6), "Give 0 to "),
    ],
)
def test_bad_settings_are_one_message_and_exit_code_2(
    small_dataset: Path, cli: Cli, options: tuple[object, ...], message: str
) -> None:
    code, out, err = cli("shards", "show", small_dataset, *options)
    assert (code, out) == (2, "")
    assert message in err and err.startswith("mobilellama: error: ") and "Traceback" not in err


def test_a_document_is_shown_by_its_number_and_by_its_line(
    small_dataset: Path, small_corpus: Path, cli: Cli
) -> None:
    file = "github/filtered_1.sampled.jsonl"
    text = json.loads((small_corpus / file).read_bytes().split(b"\n")[2])["text"]
    options = ("--file", file, "--line", 3, "--sources", small_corpus)
    code, by_line, _ = cli("shards", "show", small_dataset, *options)
    assert code == 0
    assert by_line.split("\n\n", 1)[1].split("\n", 1)[1] == text + "\n"
    place = place_of_line(TokenDataset(small_dataset), str(file), 3, str(small_corpus))
    options = ("--bucket", place.bucket, "--document", place.document)
    assert cli("shards", "show", small_dataset, *options)[1] == by_line
    assert by_line.startswith(f"bucket   {place.bucket}, ") and f"source   {file}, byt" in by_line


def test_a_search_says_where_the_text_is_and_how_to_see_all(small_dataset: Path, cli: Cli) -> None:
    code, out, _ = cli("shards", "show", small_dataset, "--text", "import", "--limit", 2)
    assert code == 0
    *_, summary, command = out.splitlines()
    assert re.fullmatch(
        r"2 documents\. Searched: [\d,]+ tokens, then --limit ended the .*", summary
    )
    words = command.partition("mobilellama ")[2].split()
    code, shown, _ = cli(*words)
    assert code == 0 and "import" in shown
    code, out, _ = cli("shards", "show", small_dataset, "--text", "no such text anywhere")
    tokens = sum(row["tokens"] for row in TokenDataset(small_dataset).manifest)
    assert out == f"no document holds this text. Searched: {tokens:,} tokens, all\n"


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_and_rules_of_its_width(
    small_dataset: Path, no_color: str, coloured: bool
) -> None:
    command = [sys.executable, "-m", "mobilellama", "shards", "show", str(small_dataset)]
    command += ["--position", "0", "--seq_len", "60"]
    environment = os.environ | {"NO_COLOR": no_color, "COLUMNS": "80", "TERM": "xterm"}
    reader, writer = pty.openpty()
    subprocess.run(command, stdout=writer, stderr=subprocess.DEVNULL, env=environment, check=True)
    os.close(writer)
    out = ""
    with contextlib.suppress(OSError), open(reader, "rb", buffering=0) as file:
        while part := file.read(1 << 16):  # at the end a terminal gives an error
            out += part.decode(errors="replace")
    assert ("\x1b[36m" in out) is coloured
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out).replace("\r\n", "\n")
    rules = [line for line in plain.split("\n") if line.startswith("────")]
    assert rules and all(len(line) == 80 for line in rules)
    expected = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment | {"NO_COLOR": ""}
    )
    assert plain == expected.stdout
