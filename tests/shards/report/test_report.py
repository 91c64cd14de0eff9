import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mobilellama.picture import colour
from mobilellama.shards.mixture import read_weights
from mobilellama.shards.reader import TokenDataset
from tests.helpers.browser import Shown, show
from tests.shards.conftest import Cli
from tests.shards.report.conftest import BAD_LINES

SUBSETS = ["c4", "common_crawl", "wikipedia"]


@pytest.fixture(scope="module")
def page(odd_dataset: Path, odd_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the odd dataset, as a user would make it."""
    output = tmp_path_factory.mktemp("page") / "report.html"
    command = [sys.executable, "-m", "mobilellama", "shards", "report", odd_dataset]
    command += ["--output", output, "--sources", odd_corpus]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"wrote {output}\n"), done.stderr
    return output.read_text(encoding="utf-8")


def rgb(hex_colour: str) -> tuple[int, int, int]:
    return tuple(int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))  # pyright: ignore[reportReturnType]


def rows_of(shown: Shown, heading: str) -> list[list[str]]:
    """Return the cells of the table whose heading has a column of this name, heading first."""
    for table in shown.named("table"):
        inside = [
            one for one in shown.elements if one.name in ("th", "td")
            and table.y <= one.y < table.y + table.height
        ]  # fmt: skip
        if any(cell.text == heading for cell in inside):
            by_line: dict[float, list[str]] = {}
            for cell in inside:
                by_line.setdefault(cell.y, []).append(cell.text)
            return list(by_line.values())
    raise AssertionError(f"no table has a column {heading}")


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1100])
def test_a_browser_shows_bars_and_numbers_that_follow_the_manifest(
    page: str, odd_dataset: Path, tmp_path: Path, width: int
) -> None:
    shown = show(page, tmp_path, width=width, height=2200)
    assert shown.title == "Dataset odd & <b>"
    assert shown.scroll_width == width
    pixels = np.asarray(shown.picture)
    assert pixels.shape == (2200, width, 3)
    manifest = pq.read_table(odd_dataset / "manifest.parquet").to_pylist()
    by_subset = {row["subset"]: row for row in manifest}
    assert [*by_subset] == SUBSETS
    train = [by_subset[name]["train_tokens"] for name in SUBSETS]
    recipe = read_weights("redpajama")
    bars = shown.named("rect")
    # Of each subset a bar and the recipe's; then the recipe's other subsets; then tokens a byte.
    assert len(bars) == 2 * len(recipe) + len(SUBSETS)
    shares = [tokens / sum(train) for tokens in train]
    wanted = [recipe[name] / sum(recipe.values()) for name in SUBSETS]
    for i, (share, of_recipe) in enumerate(zip(shares, wanted, strict=True)):
        own, other = bars[2 * i], bars[2 * i + 1]
        assert own.width / other.width == pytest.approx(share / of_recipe, rel=0.02)
        middle, end = round(own.y + own.height / 2), round(own.x + own.width)
        assert tuple(pixels[middle, round(own.x + own.width / 2)]) == rgb(colour(i))
        assert tuple(pixels[middle, end - 2]) == rgb(colour(i))
        if end + 2 < width:
            assert tuple(pixels[middle, end + 2]) == (255, 255, 255)
        below = round(other.y + other.height / 2)
        assert tuple(pixels[below, round(other.x + other.width / 2)]) == rgb("#9aa5b1")
    per_byte = [by_subset[name]["tokens"] / by_subset[name]["bytes_in"] for name in SUBSETS]
    widths = np.array([bar.width for bar in bars[-len(SUBSETS) :]])
    np.testing.assert_allclose(widths / widths[0], np.array(per_byte) / per_byte[0], rtol=0.01)
    counts = ("documents", "tokens", "train_tokens", "records", "bad_records", "empty_texts")
    table = rows_of(shown, "records read")
    for name, cells in zip(SUBSETS, table[1:], strict=False):
        assert cells == [name, "1", *(f"{by_subset[name][count]:,}" for count in counts), "0"]
    assert [int(cell.replace(",", "")) for cell in table[-1][2:5]] == [
        sum(row[count] for row in manifest) for count in counts[:3]
    ]


@pytest.mark.slow
def test_histograms_stand_where_the_documents_lengths_are(
    page: str, odd_dataset: Path, tmp_path: Path
) -> None:
    """The picture of wikipedia, which has one document, has one bar."""
    shown = show(page, tmp_path, width=1100, height=3000)
    pixels = np.asarray(shown.picture).astype(int)
    dataset = TokenDataset(odd_dataset)
    paths = [one for one in shown.named("path") if one.kind == ""]
    assert len(paths) == len(SUBSETS)
    # All pictures share one axis: from the shortest document to the longest.
    lengths = np.concatenate([dataset.bucket_index(f"{name}/00000").lengths for name in SUBSETS])
    first = np.floor(4 * np.log2(lengths.min())) / 4
    last = np.floor(4 * np.log2(lengths.max())) / 4 + 0.25
    box = paths[2]
    filled = 0.45 * np.array(rgb(colour(2))) + 0.55 * 255
    row = pixels[round(box.y + box.height - 8), round(box.x) : round(box.x + box.width)]
    columns = np.flatnonzero(np.abs(row - filled).max(axis=1) <= 2)
    (length,) = dataset.bucket_index("wikipedia/00000").lengths
    place = (np.log2(length) - first) / (last - first) * box.width
    bin_px = 0.25 / (last - first) * box.width
    assert columns.min() - 2 <= place <= columns.max() + 2
    assert len(columns) == pytest.approx(bin_px, abs=4)


@pytest.mark.slow
def test_a_dark_page_is_dark_and_no_text_of_the_corpus_is_markup(page: str, tmp_path: Path) -> None:
    shown = show(page, tmp_path, width=900, height=4000, dark=True)
    assert shown.picture.getpixel((3, 3)) == (0x14, 0x18, 0x1D)
    assert shown.title == "Dataset odd & <b>"
    assert {one.name for one in shown.elements}.isdisjoint({"script", "img", "iframe", "a"})
    quotes = [one.text for one in shown.named("pre")]
    visible = (
        "<script>document.title = 'owned'</script> </pre></body> & \"quoted\" 'text' \ufffd[2J"
    )
    assert quotes[0] == visible  # four times: the most frequent
    assert sorted(one.text for one in shown.named("code")) == sorted([*BAD_LINES, "{"])


def test_the_page_needs_no_network_and_allows_no_script(page: str) -> None:
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert re.findall(r"<(?:script|link|img|iframe|object|embed)\b", page) == []
    assert re.findall(r"\b(?:src|href|on\w+)\s*=", re.sub(r"<pre>.*?</pre>", "", page)) == []
    assert "url(" not in page and "@import" not in page


def test_the_fingerprint_tokenizer_and_seed_are_told(page: str, odd_dataset: Path) -> None:
    dataset = TokenDataset(odd_dataset)
    for fact in (
        dataset.fingerprint,
        dataset.identity.tokenizer_sha256,
        "tokenizer.model, 800 ids",
    ):
        assert fact in page
    assert f"<dt>seed of the dataset</dt><dd>{dataset.identity.seed}</dd>" in page
    assert re.search(r"<dt>collected</dt><dd>\d{4}-\d\d-\d\d \d\d:\d\d UTC</dd>", page)


def test_a_failed_write_leaves_the_page_that_was_there(
    odd_dataset: Path, tmp_path: Path, cli: Cli
) -> None:
    output = tmp_path / "report.html"
    assert cli("shards", "report", odd_dataset, "--output", output, "--samples", 0)[0] == 0
    before = output.read_bytes()
    assert b"Documents at random" not in before
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from mobilellama.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", limited, "shards", "report", odd_dataset, "--output", output]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and os.strerror(errno.EFBIG) in done.stderr, done.stderr
    assert str(output) in done.stderr and "Traceback" not in done.stderr
    assert output.read_bytes() == before and [*tmp_path.iterdir()] == [output]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "a.pdf"), "output = a.pdf: must end in .html. Name an .html file."),
        (("--output", "no/such/a.html"), "output = no/such/a.html: lies in a folder that does"),
        (("--output", "a.html", "--max_tokens", 0), "max_tokens = 0.0: must be at least 1."),
        (("--output", "a.html", "--samples", -1), "samples = -1: must be at least 0."),
        (("--output", "a.html", "--samples", 10**6), "samples = 1000000: must be at most 1,000."),
        (("--output", "a.html", "--budget_tokens", 0), "budget_tokens = 0.0: must be at least 1."),
        (("--output", "a.html", "--mixture", "no.yaml"), "mixture = no.yaml: is neither a file"),
        (("--output", "a.html", "--sources", "gone"), "sources = gone: is neither a folder nor a"),
        (("--output", "a.html", "--tokenizer", "gone.model"), "tokenizer = gone.model: "),
        ((), "output"),
    ],
)
def test_bad_settings_are_one_message_and_exit_code_2(
    odd_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli,
    options: tuple[object, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("shards", "report", odd_dataset, *options)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err
    assert not [*tmp_path.iterdir()]
