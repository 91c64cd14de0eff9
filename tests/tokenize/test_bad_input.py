"""Each input of docs/bad_input.md is made for real, and does what the page says."""

import gzip
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from mobilellama.files.atomic import read_json
from mobilellama.shards.reader import TokenDataset
from tests.helpers.documented import rows, words
from tests.tokenize.conftest import GOOD

pytestmark = pytest.mark.slow

Command = Callable[..., subprocess.CompletedProcess[str]]

BAD_LINES = {
    "a line that is no JSON": b"no json",
    "a line that was cut": b'{"text": "las',
    "an empty line": b"",
    "a line of more than 64 MiB, with `--long_records skip`": b'{"text": "'
    + b"a" * (1 << 26)
    + b'"}',
    "objects or lists too deep in each other": b'{"text":' + b"[" * 100_000,
    "bytes that are not UTF-8": b'{"text": "caf\xe9"}',
    r"a NUL byte, not written as `\u0000`": b'{"text": "a\0b"}',
    "`text` is an object": b'{"text": {"a": 1}}',
    "`text` is a list": b'{"text": ["a"]}',
    "`text` is a number": b'{"text": 7}',
    "`text` is null": b'{"text": null}',
    "no `text`": b'{"other": "a"}',
    "a line that is a list": b"[1]",
}

# The content of a file, and of a plain one that gives the same documents.
SPECIAL = {
    r"a NUL that is written `\u0000`": (b'{"text": "a\\u0000b"}\n', ["a\0b"]),
    "lines that end in CRLF": (b'{"text": "one"}\r\n{"text": "two"}\r\n', ["one", "two"]),
    "a byte order mark at the start": (b"\xef\xbb\xbf" + GOOD, ["good"]),
    "U+2028 or U+0085 in a text": ('{"text": "a\u2028b\x85c"}\n'.encode(), ["a\u2028b\x85c"]),
    "a name twice in an object": (b'{"text": "first", "text": "last"}\n', ["last"]),
    "a last line without line end": (GOOD + b'{"text": "last"}', ["good", "last"]),
    "half of a surrogate pair": (b'{"text": "a \\ud83d b"}\n', ["a \ufffd b"]),
    "an empty text": (b'{"text": ""}\n' + GOOD, ["good"]),
    "an empty file": (b"", []),
    "a folder that is named `a.jsonl`": (GOOD, ["good"]),
}


def damaged() -> dict[str, tuple[str, bytes]]:
    """Return the name and the content of each file that fails its slice."""
    packer = zstandard.ZstdCompressor(write_checksum=True)
    noise = np.random.default_rng(3).choice(np.frombuffer(b"0123456789abcdef", np.uint8), 1400)
    whole = packer.compress(b'{"text": "' + bytes(noise) + b'"}\n')
    # A skippable frame fills the file up to 1,000 bytes: the messages name the size.
    head = 1000 - len(whole)
    raw = b"\x50\x2a\x4d\x18" + (head - 8).to_bytes(4, "little") + bytes(head - 8) + whole

    def flipped(at: int, bit: int = 3) -> bytes:
        return raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]

    flipped_first = bytes([whole[0] ^ 1]) + whole[1:]
    started = packer.compress(GOOD)
    return {
        "a `.zst` that was cut in its first frame": ("a.jsonl.zst", whole[:100]),
        "a `.zst` that was cut in a later frame": ("a.jsonl.zst", raw + started[:6]),
        "a `.zst` that was cut in its last checksum": ("a.jsonl.zst", raw[:-2]),
        "a `.zst` with another bit in its first bytes": ("a.jsonl.zst", flipped_first),
        "a `.zst` with another bit in its header": ("a.jsonl.zst", flipped(head + 4)),
        "a `.zst` with another bit in a block": ("a.jsonl.zst", flipped(head + 300)),
        "a `.zst` with another bit in a checksum": ("a.jsonl.zst", flipped(999)),
        "a `.zst` that is plain text": ("a.jsonl.zst", GOOD * 10),
        "a `.zst` that is gzip": ("a.jsonl.zst", gzip.compress(GOOD, mtime=0)),
        "a `.zst` of 0 bytes": ("a.jsonl.zst", b""),
        "a line of more than 64 MiB": (
            "a.jsonl",
            GOOD + b'{"text": "' + b"a" * (1 << 26) + b'"}\n',
        ),
        "a `.jsonl` that is zstd": ("a.jsonl", zstandard.compress(GOOD)),
        "a `.jsonl` in UTF-16": ("a.jsonl", GOOD.decode().encode("utf-16")),
        "a file that went after the plan was made": ("a.jsonl", GOOD),
        "a disk that cannot be read": ("a.jsonl", b""),
    }


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def read_through(
    small_tokenizer: Path, tokenize_command: Command, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The dataset of a subset for each bad line and each special file, and the command's end."""
    root = tmp_path_factory.mktemp("bad_input") / "corpus"
    for number, line in enumerate(BAD_LINES.values()):
        write(root / f"bad_{number:02}/a.jsonl", GOOD + line + b"\n" + GOOD)
    for number, (content, texts) in enumerate(SPECIAL.values()):
        inner = "a.jsonl/b.jsonl" if "folder" in list(SPECIAL)[number] else "a.jsonl"
        write(root / f"special_{number:02}/{inner}", content)
        plain = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        write(root / f"plain_{number:02}/a.jsonl", plain.encode())
    output = root.with_name("dataset")
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", root, "--output", output]
    arguments += ["--long_records", "skip"]
    return output, tokenize_command("run", *arguments, "--workers", 2)


def test_the_page_has_the_inputs_of_these_tests() -> None:
    assert list(rows("bad_input.md", "Records that give no document")) == list(BAD_LINES)
    assert list(rows("bad_input.md", "Records that are read in a certain way")) == list(SPECIAL)
    assert list(rows("bad_input.md", "Files that fail their slice")) == list(damaged())


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_counted_in_the_receipt_and_its_neighbours_are_read(
    read_through: tuple[Path, subprocess.CompletedProcess[str]], name: str
) -> None:
    output, _ = read_through
    receipt = read_json(output / f"bad_{list(BAD_LINES).index(name):02}/00000.json")
    (reason,) = rows("bad_input.md", "Records that give no document")[name]
    assert receipt["bad_places"] == [[len(GOOD), words(reason)]]
    assert (receipt["records"], receipt["bad_records"], receipt["documents"]) == (3, 1, 2)


def test_bad_lines_are_told_at_the_end_and_stand_in_the_manifest(
    read_through: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    output, done = read_through
    assert done.returncode == 0, done.stderr
    first = "bad_00/a.jsonl at 17: not JSON (Expecting value at character 0 of it); bad_01/a.jsonl"
    assert f"{len(BAD_LINES)} records are bad and left out. The first: {first}" in done.stderr
    assert sum(row["bad_records"] for row in TokenDataset(output).manifest) == len(BAD_LINES)
    total = next(line for line in done.stdout.splitlines() if line.startswith("total"))
    assert total.split()[-3:] == [str(len(BAD_LINES)), "1", "1"]


@pytest.mark.parametrize("name", SPECIAL)
def test_a_special_file_gives_the_documents_of_a_plain_one(
    read_through: tuple[Path, subprocess.CompletedProcess[str]], name: str
) -> None:
    output, _ = read_through
    number = list(SPECIAL).index(name)
    special, plain = (
        np.sort(np.fromfile(output / f"{kind}_{number:02}/00000.bin", "<u2"))
        for kind in ("special", "plain")
    )
    assert special.tolist() == plain.tolist()
    receipt = read_json(output / f"special_{number:02}/00000.json")
    assert receipt["documents"] == len(SPECIAL[name][1])
    _, counted = rows("bad_input.md", "Records that are read in a certain way")[name]
    counters = {"bad_records", "empty_texts", "replaced_surrogates"}
    expected = {counter: int(f"`{counter}`" in counted) for counter in counters}
    assert {counter: receipt[counter] for counter in counters} == expected
    assert (counted == "no") == (sum(expected.values()) == 0)


@pytest.fixture(scope="module")
def failed(
    small_tokenizer: Path, tokenize_command: Command, tmp_path_factory: pytest.TempPathFactory
) -> subprocess.CompletedProcess[str]:
    """The end of a command over a subset for each damaged file, and one good one."""
    root = tmp_path_factory.mktemp("damaged") / "corpus"
    write(root / "good/a.jsonl", GOOD)
    for number, (name, content) in enumerate(damaged().values()):
        write(root / f"damaged_{number:02}/{name}", content)
    numbers = {name: number for number, name in enumerate(damaged())}
    unread = root / f"damaged_{numbers['a disk that cannot be read']:02}/a.jsonl"
    unread.unlink()
    unread.symlink_to("/proc/self/mem")  # reading its first page is a real I/O error
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", root]
    arguments += ["--output", root.with_name("dataset"), "--workers", 1]
    gone = root / f"damaged_{numbers['a file that went after the plan was made']:02}/a.jsonl"
    # It goes when the plan is there and its last file is written, before the workers start.
    hook = root.with_name("hook")
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, values):\n"
        "    if event == 'os.rename' and str(values[1]).endswith('tokenizer.model'):\n"
        f"        os.remove({str(gone)!r})\n"
        "sys.addaudithook(hook)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(hook), prepend=os.pathsep)
        return tokenize_command("run", *arguments)


@pytest.mark.parametrize("name", damaged())
def test_a_damaged_file_fails_its_slice_with_these_words(
    failed: subprocess.CompletedProcess[str], name: str
) -> None:
    (cell,) = rows("bad_input.md", "Files that fail their slice")[name]
    number = list(damaged()).index(name)
    report = failed.stderr[failed.stderr.index("mobilellama: error:") :]
    (line,) = [one for one in report.splitlines() if f"damaged_{number:02}/00000: " in one]
    assert words(cell) in line
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    assert f"{len(damaged())} of {len(damaged()) + 1} slices failed" in report
