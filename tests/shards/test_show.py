import json
import re
from pathlib import Path

import pytest
import zstandard

from mobilellama.shards.order import open_order
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.show import DocumentPart, SampleDescription, describe_sample, render
from tests.shards.conftest import Cli


@pytest.fixture(scope="module")
def source_texts(small_corpus: Path) -> dict[str, list[str]]:
    """The texts of every source file, in order, empty ones left out."""
    texts = {}
    for path in small_corpus.rglob("*.jsonl*"):
        data = path.read_bytes()
        if path.suffix == ".zst":
            data = zstandard.decompress(data)
        records = [json.loads(line)["text"] for line in data.split(b"\n") if line]
        texts[path.relative_to(small_corpus).as_posix()] = [text for text in records if text]
    return texts


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_document_shown_begins_as_its_source_document_does(
    small_dataset: Path, source_texts: dict[str, list[str]], split: str
) -> None:
    dataset = TokenDataset(small_dataset)
    begun: set[tuple[str, int]] = set()
    whole = 0
    for subset in dataset.subsets:
        windows = dataset.windows(subset, 300, "train" if split == "train" else "heldout")
        for sample in range(0, len(windows), 5):
            shown = describe_sample(dataset, windows, sample)
            for part in shown.parts:
                assert part.number_in_source is not None
                text = source_texts[shown.source][part.number_in_source]
                # A character that the window cuts is shown as U+FFFD.
                visible = part.text.rstrip("\N{REPLACEMENT CHARACTER}")
                if part.first == 0:
                    assert text.startswith(visible)
                    begun.add((shown.source, part.number_in_source))
                if part.first == 0 and part.last == part.tokens:
                    assert part.text == text
                    whole += 1
    if split == "train":
        assert len(begun) > 200 and whole > 100
        assert {source for source, _ in begun} == set(source_texts)


def test_documents_of_a_sample_follow_one_another_without_a_gap(small_dataset: Path) -> None:
    dataset = TokenDataset(small_dataset)
    windows = dataset.windows("common_crawl", 500)
    for sample in range(0, len(windows), 7):
        parts = describe_sample(dataset, windows, sample).parts
        assert sum(part.last - part.first for part in parts) == 501
        assert [part.document for part in parts] == list(
            range(parts[0].document, parts[0].document + len(parts))
        )
        assert all(part.first == 0 for part in parts[1:])
        assert all(part.last == part.tokens for part in parts[:-1])


def test_a_long_document_is_put_together_from_its_samples(
    small_dataset: Path, source_texts: dict[str, list[str]]
) -> None:
    """All of a file's kept documents appear, each once, over the samples of an epoch."""
    dataset = TokenDataset(small_dataset)
    windows = dataset.windows("github", 20_000)
    shown = [describe_sample(dataset, windows, sample) for sample in range(len(windows))]
    first = [one for one in shown if one.span.bucket == "github/00000"]
    numbers = [part.number_in_source for one in first for part in one.parts if part.first == 0]
    assert len(numbers) == len(set(numbers)) > 5
    whole = [p for one in first for p in one.parts if p.first == 0 and p.last == p.tokens]
    assert max(len(part.text) for part in whole) > 10_000
    for part in whole:
        assert part.number_in_source is not None
        assert part.text == source_texts[first[0].source][part.number_in_source]


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


def test_a_printed_sample_marks_its_documents_and_cannot_drive_the_terminal(
    small_dataset: Path,
) -> None:
    dataset = TokenDataset(small_dataset)
    span = dataset.windows("github", 10).span(3)
    parts = (
        DocumentPart(document=4, number_in_source=17, tokens=9, first=7, last=9, text="a\x1b[2Jb"),
        DocumentPart(
            document=5, number_in_source=1, tokens=1200, first=0, last=1200, text="c\n\td"
        ),
    )
    shown = SampleDescription(
        subset="github", sample=3, num_samples=40, span=span, source="github/x.jsonl",
        source_range=(0, 1000), unit="bytes", parts=parts,
    )  # fmt: skip
    lines = render(shown).split("\n")
    assert lines[0] == "subset   github, sample 3 of 40"
    assert lines[1] == f"bucket   github/00000, tokens 30 to 40 of {span.bucket_tokens:,}"
    assert lines[2] == "source   github/x.jsonl, bytes 0 to 999"
    assert lines[4].startswith("──── document 4, number 17 of the source, tokens 7 to 8 of 9 ───")
    assert lines[5] == "a\N{REPLACEMENT CHARACTER}[2Jb"
    assert lines[7].startswith("──── document 5, number 1 of the source, 1,200 tokens ───")
    assert lines[8:] == ["c", "\td"]


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
        ((), "position"),
    ],
)
def test_bad_settings_are_one_message_and_exit_code_2(
    small_dataset: Path, cli: Cli, options: tuple[object, ...], message: str
) -> None:
    code, out, err = cli("shards", "show", small_dataset, *options)
    assert (code, out) == (2, "")
    assert message in err and err.startswith("mobilellama: error: ") and "Traceback" not in err
