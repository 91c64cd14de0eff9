from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.tokenize.planning.published import (
    PUBLISHED,
    compare_with_list,
    published_size,
    read_url_list,
    unlike_published,
)

_BASE = "https://data.together.xyz/redpajama-data-1T/v1.0.0"
_CRAWL = "common_crawl/2019-30/en_head_0000.json.gz.dedup.classifier.jsonl.zst"


def test_the_table_is_that_of_the_dataset_card() -> None:
    files = {name: subset.files for name, subset in PUBLISHED.items()}
    assert files == {
        "arxiv": 100, "book": 1, "c4": 1024, "common_crawl": 859, "github": 98,
        "stackexchange": 1, "wikipedia": 1,
    }  # fmt: skip
    assert sum(files.values()) == 2084
    assert sum(subset.tokens for subset in PUBLISHED.values()) == 1_210 * 10**9
    # 2.67 TiB, as the announcement has it, is 2.94 TB; the sizes seen sum to 2.73 TB.
    assert sum(subset.file_bytes for subset in PUBLISHED.values()) == 2_729 * 10**9
    assert published_size(_CRAWL) == 237e9 / 153


def test_a_list_gives_the_paths_of_a_local_copy(tmp_path: Path) -> None:
    file = tmp_path / "urls.txt"
    lines = [f"{_BASE}/{_CRAWL}", "", f"{_BASE}/wikipedia/wiki.jsonl\r", "wikipedia/wiki.jsonl"]
    file.write_text("\n".join(lines))
    assert read_url_list(str(file)) == [_CRAWL, "wikipedia/wiki.jsonl"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{_BASE}/c4/a.jsonl\n{_BASE}/c5/a.jsonl", "line 2 (" + _BASE + "/c5/a.jsonl) names no"),
        ("https://c4/a.jsonl", "line 1 (https://c4/a.jsonl) names no subset"),
        (f"{_BASE}/c4", "names no subset"),
        (" \n", "holds no address"),
        ("\xff", "cannot be read (it is not UTF-8)"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "urls.txt"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        read_url_list(str(file))
    assert str(caught.value).startswith(f"url_list = {file}: ") and message in str(caught.value)


def test_a_copy_is_compared_with_the_list() -> None:
    compared = compare_with_list(["c4/a.jsonl", _CRAWL], {"c4/a.jsonl", "c4/b.jsonl"})
    assert compared.remarks() == [
        f"missing of the list: 1 file (about 2 GB): {_CRAWL}",
        "not in the list: 1 file: c4/b.jsonl",
    ]
    same = compare_with_list(["c4/a.jsonl"], {"c4/a.jsonl"})
    assert same.remarks() == ["all files of the list are there, and no others"]


def test_a_copy_without_a_list_is_compared_with_the_published_numbers() -> None:
    complete = {name: subset.files for name, subset in PUBLISHED.items()}
    assert unlike_published(complete) == []
    del complete["book"]
    assert unlike_published(complete | {"c4": 1000, "commoncrawl": 5}) == [
        "book: 0 of 1 published files (removed from the published files)",
        "c4: 1,000 of 1,024 published files",
        "commoncrawl: not a subset of RedPajama v1; did you mean 'common_crawl'?",
    ]
    assert unlike_published({"mine": 3}) == []
