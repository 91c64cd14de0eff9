"""A dataset on the Hub makes the buckets of its files, and nothing of it is stored."""

import io
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenize.sources.hub_dataset import name_and_revision, url_and_path
from tests.helpers.dataset_hub import DatasetHub, serving_datasets
from tests.helpers.text_tables import TEXTS

Command = Callable[..., subprocess.CompletedProcess[str]]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_source_holds_the_commit_and_a_name_may_hold_a_revision() -> None:
    there = url_and_path(f"allenai/c4@{COMMIT}/en/c4-train.00000.json.gz")
    assert there == (f"hf://datasets/allenai/c4@{COMMIT}", "en/c4-train.00000.json.gz")
    assert url_and_path("en/c4-train.00000.json.gz") is None
    assert url_and_path("a/b@main/c.jsonl") is None
    assert name_and_revision("allenai/c4@v1/x") == ("allenai/c4", "v1/x")
    assert name_and_revision("allenai/c4") == ("allenai/c4", None)


def parquet(texts: list[str]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), content)
    return content.getvalue()


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


FILES = {
    "README.md": b"---\nlicense: mit\n---\nA card\n",
    "data/train-00000-of-00002.parquet": parquet(TEXTS[:300]),
    "data/train-00001-of-00002.parquet": parquet(TEXTS[300:]),
    "data/test-00000-of-00001.parquet": parquet(["held out"]),
}
DATASETS = {
    "tester/tables": FILES,
    "tester/lines": {"train.jsonl.zst": zstandard.compress(lines(TEXTS))},
    "tester/shut": {"train.jsonl": b'{"text": "a"}\n'},
    "tester/texts": {"train.txt": b"a line\nanother\n"},
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    with serving_datasets({name: dict(files) for name, files in DATASETS.items()}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


def stored(tmp_path: Path) -> list[str]:
    """Return the files of data that were stored on this machine."""
    paths = (tmp_path / "hf_home").rglob("*")
    return [path.name for path in paths if path.suffix in (".parquet", ".arrow", ".zst")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tester/tables", "tester/lines"])
def test_the_buckets_are_those_of_the_files_in_a_folder(
    hub: DatasetHub, tokenize_command: Command, small_tokenizer: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "local" / name.split("/")[1]
    for path, content in hub.datasets[name].items():
        if "train" in path:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    given = ["--tokenizer", small_tokenizer, "--workers", 1]
    local, remote = tmp_path / "a", tmp_path / "b"
    done = tokenize_command("run", *given, "--sources.dataset", folder, "--output", local)
    assert done.returncode == 0, done.stderr
    hub.refused[r"GET /datasets/.*/resolve/.*train"] = 1  # asked for again
    done = tokenize_command("run", *given, "--sources.dataset", name, "--output", remote)
    assert done.returncode == 0, done.stderr
    buckets = sorted(path.relative_to(local) for path in local.rglob("*.bin"))
    assert buckets and buckets == sorted(path.relative_to(remote) for path in remote.rglob("*.bin"))
    for path in [*buckets, *(path.with_suffix(".idx") for path in buckets)]:
        assert (local / path).read_bytes() == (remote / path).read_bytes()
    source = f"{name}@{hub.commit(name)}/"
    assert all(row["source"].startswith(source) for row in TokenDataset(remote).manifest)
    assert stored(tmp_path) == []

    hub.change(name, "README.md", b"# Another commit")
    again = tokenize_command("run", *given, "--sources.dataset", name, "--output", remote)
    assert again.returncode == 0 and "is finished already" in again.stdout, again.stderr
    newer = f"{name}@{hub.commit(name)}"
    again = tokenize_command("run", *given, "--sources.dataset", f"{name}@main", "--output", remote)
    assert f"sources.dataset = {newer}: is another commit than the plan's" in again.stderr
    begun = source.removesuffix("/")
    assert again.returncode == 2 and f"Give --sources.dataset {begun}, or" in again.stderr
    again = tokenize_command("run", *given, "--sources.dataset", begun, "--output", remote)
    assert again.returncode == 0 and "is finished already" in again.stdout, again.stderr


@pytest.mark.slow
def test_a_plan_lists_files_without_reading_them(
    hub: DatasetHub, tokenize_command: Command
) -> None:
    done = tokenize_command("plan", "--sources.dataset", "tester/tables", "--json", "true")
    assert done.returncode == 0, done.stderr
    size = sum(len(content) for path, content in FILES.items() if "train" in path)
    assert json.loads(done.stdout)["outlook"]["subsets"]["tables"]["size"] == size
    assert not [one for one in hub.asked if "train-0000" in one and "bytes=" not in one]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["tester/tables", "--sources.split", "dev"],
         "sources.split = dev: tester/tables has no such split (it has train, test). Name one of"),
        (["tester/nothing"], "sources.dataset = tester/nothing: cannot be opened by datasets ("),
        (["tester/shut"], "For a private or gated dataset, log in with 'hf auth login' or set HF_"),
        (["tester/tables", "--sources.text_column", "body"],
         "has no such column (it has text). Name one of them"),
    ],
)  # fmt: skip
def test_what_the_hub_does_not_have_is_told(
    hub: DatasetHub, tokenize_command: Command, small_tokenizer: Path, tmp_path: Path,
    given: list[str], message: str,
) -> None:  # fmt: skip
    hub.closed.add("tester/shut")
    given = ["--tokenizer", str(small_tokenizer), "--sources.dataset", *given]
    done = tokenize_command("run", *given, "--output", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_other_files_and_those_that_are_to_be_downloaded_are_read_by_datasets(
    hub: DatasetHub, tokenize_command: Command, small_tokenizer: Path, tmp_path: Path
) -> None:
    given = ["--tokenizer", small_tokenizer, "--workers", 1, "--sources.dataset"]
    done = tokenize_command("run", *given, "tester/texts", "--output", tmp_path / "texts")
    assert done.returncode == 0, done.stderr
    assert "downloads the whole split, because datasets reads it as 'text'" in done.stderr
    assert TokenDataset(tmp_path / "texts").manifest[0]["documents"] == 2
    given += ["tester/tables", "--sources.download", "true"]
    done = tokenize_command("run", *given, "--output", tmp_path / "tables")
    assert done.returncode == 0, done.stderr
    (row,) = TokenDataset(tmp_path / "tables").manifest
    assert (row["unit"], row["source"]) == ("rows", "tester/tables:train")
    assert row["documents"] == len(TEXTS) and stored(tmp_path)
    (tmp_path / "tables/dataset.json").unlink()
    # As a dataset that was begun by a version which always downloaded.
    done = tokenize_command("run", *given[:-2], "--output", tmp_path / "tables")
    assert done.returncode == 0, done.stderr
