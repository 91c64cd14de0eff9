import logging
import os
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.slices import find_slices
from tests.tokenize.conftest import place


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    place(tmp_path / "elsewhere", a_DOT_jsonl=4)
    root = tmp_path / "root"
    root.mkdir()
    os.symlink(tmp_path / "elsewhere", root / "c4")
    os.symlink(root, tmp_path / "elsewhere" / "back")
    found = find_slices(SourcesConfig(root=str(root)), 10)
    assert [slice_.source for slice_ in found] == ["c4/a.jsonl"]


def test_a_folder_that_several_links_lead_to_is_read_under_each_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = place(tmp_path / "root", c4__2019__a_DOT_jsonl=4)
    root = tmp_path / "root"
    (root / "book").symlink_to("c4")
    (root / "github").symlink_to(root / "c4")
    (root / "c4/2020").symlink_to("2019")
    (root / "arxiv").mkdir()
    (root / "arxiv/part").symlink_to("../c4/2019")
    years = ["2019/a.jsonl", "2020/a.jsonl"]
    found = [slice_.source for slice_ in find_slices(sources, 10)]
    assert found == [
        "arxiv/part/a.jsonl",
        *(f"{subset}/{path}" for subset in ("book", "c4", "github") for path in years),
    ]
    assert not caplog.records
    tables = SourcesConfig(dataset=str(root))
    assert [slice_.source for slice_ in find_slices(tables, 10)] == found


@pytest.mark.parametrize("target", [".", "..", "../..", "root", "down", "/"])
def test_a_link_to_a_folder_above_it_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    """Also where it leads there through a folder elsewhere, or above the root."""
    sources = place(tmp_path / "root", c4__a_DOT_jsonl=4, book__a_DOT_jsonl=4)
    place(tmp_path / "elsewhere", b_DOT_jsonl=4)
    root = tmp_path / "root"
    if target == "down":
        (root / "c4/down").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere/up").symlink_to(root)
        name, below = "c4/down/up", ["c4/down/b.jsonl"]
    else:
        (root / "c4/up").symlink_to(root if target == "root" else target)
        name, below = "c4/up", []
    found = [slice_.source for slice_ in find_slices(sources, 10)]
    assert found == ["book/a.jsonl", "c4/a.jsonl", *below]
    (message,) = [record.getMessage() for record in caplog.records]
    real = os.path.realpath(root / name)
    assert message == f"left out: the link {name} in {root} leads to {real}, above it"


def test_folders_that_link_to_each_other_end_in_a_word_not_in_millions_of_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of ten folders with two links each to the next: 1,024 names of the last."""
    sources = place(tmp_path, l10__a_DOT_jsonl=4)
    for number in range(10):
        (tmp_path / f"l{number}").mkdir()
        for name in "ab":
            (tmp_path / f"l{number}/{name}").symlink_to(f"../l{number + 1}")
    with pytest.raises(ConfigError, match=r"has links that give .*/l10 more than 1,000 names"):
        find_slices(sources, 10)
    for number in range(1, 4):
        (tmp_path / f"l{number}/a").unlink()
    found = find_slices(sources, 10)
    assert len(found) == 127 + 3 * 64 + 128


def test_of_many_loops_the_first_are_told_and_the_others_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = place(tmp_path, c4__a_DOT_jsonl=4)
    for number in range(25):
        (tmp_path / f"c4/up{number}").symlink_to(".")
    assert [slice_.source for slice_ in find_slices(sources, 10)] == ["c4/a.jsonl"]
    assert len(caplog.records) == 21
    assert caplog.records[-1].getMessage().startswith("left out: 5 more links in ")


def test_files_beside_the_data_are_counted_by_kind_not_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = place(tmp_path / "root", c4__a_DOT_jsonl=4)
    for number in range(40):
        (tmp_path / f"root/c4/{number:02}.txt").touch()
    (tmp_path / "root/LICENSE").touch()
    with caplog.at_level(logging.INFO):
        find_slices(sources, 10)
    assert [record.getMessage() for record in caplog.records] == [
        "left out: 41 files beside the data (40 .txt, 1 without an ending), such as LICENSE, "
        "c4/00.txt, c4/01.txt"
    ]


def test_a_pipe_under_a_file_s_name_is_refused(tmp_path: Path) -> None:
    sources = place(tmp_path, c4__a_DOT_jsonl=4)
    os.mkfifo(tmp_path / "c4/b.jsonl")
    with pytest.raises(ConfigError, match=r"c4/b\.jsonl, which is a pipe or a socket"):
        find_slices(sources, 10)


@pytest.mark.parametrize("link", ["c4/b.jsonl", "wikipedia", "c4/README.md"])
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, link: str) -> None:
    """A subset's above all: it would be left out as a note is."""
    sources = place(tmp_path, c4__a_DOT_jsonl=4)
    os.symlink(tmp_path / "gone", tmp_path / link)
    with pytest.raises(ConfigError, match=rf"sources = .*: holds the link {link}, whose target"):
        find_slices(sources, 10)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c4").mkdir()
    (tmp_path / "c4" / os.fsdecode(b"\xff.jsonl")).write_bytes(b"{}")
    with pytest.raises(ConfigError, match="name is not UTF-8"):
        find_slices(SourcesConfig(root=str(tmp_path)), 10)
