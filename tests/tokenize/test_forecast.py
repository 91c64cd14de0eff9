import json
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.tokenize.main import main
from mobilellama.tokenize.planning.outlook import JSON_MB_PER_S
from tests.helpers.corpus_tokenizers import write_llama3

_BASE = "https://data.together.xyz/redpajama-data-1T/v1.0.0"


def _plan(capsys: pytest.CaptureFixture[str], *arguments: str | int | Path) -> str:
    assert main(["plan", *map(str, arguments)]) == 0
    return capsys.readouterr().out


@pytest.fixture
def urls(tmp_path: Path) -> Path:
    file = tmp_path / "urls.txt"
    names = ["wikipedia/wiki.jsonl", *(f"c4/c4-train.{i:05}-of-01024.jsonl" for i in range(1024))]
    file.write_text("".join(f"{_BASE}/{name}\n" for name in names))
    return file


def test_a_list_alone_is_planned_with_the_published_sizes(
    urls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(_plan(capsys, "--url_list", urls, "--workers", 16, "--json", "true"))
    c4 = found["outlook"]["subsets"]["c4"]
    assert (c4["sources"], c4["slices"], c4["tokens"]) == (1024, 1024, 175 * 10**9)
    assert found["outlook"]["subsets"]["wikipedia"]["slices"] == 104  # 111 GB by GiB
    assert found["total"]["tokens"] == 199 * 10**9
    remarks = "\n".join(found["remarks"])
    assert "book: 0 of 1 published files (removed from the published files)" in remarks
    assert "mixture redpajama: there is no subset 'arxiv' (2.5), 'book' (4.5)" in remarks
    assert "normalised to 100 %: c4 76.92 %, wikipedia 23.08 %" in remarks


def test_a_corpus_is_sampled_and_compared_with_the_list(
    urls: Path,
    small_corpus: Path,
    small_tokenizer: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out = _plan(
        capsys, "--sources.root", small_corpus, "--url_list", urls, "--tokenizer", small_tokenizer,
        "--output", tmp_path / "data", "--json", "true",
    )  # fmt: skip
    found = json.loads(out)
    assert {one["basis"] for one in found["outlook"]["subsets"].values()} == {"sample"}
    remarks = "\n".join(found["remarks"])
    assert "missing of the list: 1,024 files (about 806 GB): c4/" in remarks
    assert "not in the list: 4 files: common_crawl/" in remarks
    assert f"{tmp_path / 'data'} has room: " in remarks
    assert not (tmp_path / "data").exists()


def test_a_tokenizer_json_is_sampled_with_its_own_speed_and_bytes(
    small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = write_llama3(tmp_path / "llama3", size=66_000)
    out = _plan(
        capsys, "--sources.root", small_corpus, "--tokenizer", tokenizer, "--json", "true"
    )  # fmt: skip
    outlook = json.loads(out)["outlook"]
    assert outlook["mb_per_s"] == JSON_MB_PER_S
    for subset in outlook["subsets"].values():
        assert subset["basis"] == "sample"
        assert subset["disk_bytes"] >= 4 * subset["tokens"] > 0


def test_a_small_sample_is_told_with_its_documents(
    tmp_path: Path, small_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for subset, documents in (("few", 7), ("many", 100)):
        (tmp_path / subset).mkdir()
        (tmp_path / subset / "a.jsonl").write_text('{"text": "word"}\n' * documents)
    out = _plan(capsys, "--sources.root", tmp_path, "--tokenizer", small_tokenizer)
    said = " ".join(out.split())
    assert "its numbers may be far off: few 7 documents of 1 slice. If these are not all" in said


def test_a_full_file_system_is_told_before_the_run(
    urls: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The list needs half a terabyte; /dev/shm has less on any machine that runs tests."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("no small file system")
    out = _plan(capsys, "--url_list", urls, "--output", "/dev/shm/data")
    assert "/dev/shm/data has no room: " in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "sources.root = (not given): one of sources.root, sources.dataset and url"),
        (("--url_list", "none.txt"), "url_list = none.txt: cannot be read"),
        (("--sources.dataset", "a", "--url_list", "b"), "url_list = b: is compared with"),
        (("--sources.root", "a", "--sources.dataset", "b"), "exactly one of"),
        (("--sources.root", "a", "--mb_per_s", "0"), "mb_per_s = 0.0: must be a number above 0"),
        (("--sources.root", "a", "--task_count", "0"), "task_count = 0: must be at least 1"),
    ],
)
def test_bad_settings_are_one_message(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["plan", *arguments])
    assert message in str(caught.value)
