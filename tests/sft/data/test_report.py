"""The report of 'sft prepare', as a file and as a table."""

from pathlib import Path
from typing import Any

import pytest

from mobilellama.files.atomic import read_json
from mobilellama.shards.reader import TokenDataset
from tests.sft.helpers.preparing import NAMES, SEQ_LEN, expected_parts, prepare


def test_the_report_says_what_was_read_kept_changed_and_dropped(
    prepared: Path, records: dict[str, list[Any]], small_tokenizer: Path
) -> None:
    report = read_json(prepared / "report.json")
    parts = [p for those in records.values() for p in expected_parts(those, small_tokenizer)]
    flat = [part for those in parts for part in those]
    tokens = sum(len(ids) for ids, _ in flat)
    supervised = sum(sum(mask) for _, mask in flat)
    assert report["records"] == 180
    assert report["dropped_records"] == 6
    assert report["conversations"] == 174
    assert report["heldout_conversations"] == 17
    assert (report["parts"], report["tokens"]) == (len(flat), tokens)
    assert report["supervised_tokens"] == supervised
    assert report["supervised_share"] == pytest.approx(supervised / tokens)
    assert report["waste_share"] == pytest.approx(1 - tokens / (report["rows"] * SEQ_LEN))
    assert {name: found["count"] for name, found in report["dropped"].items()} == {
        "unknown_shape": 3, "empty_answer": 3,
    }  # fmt: skip
    assert report["dropped"]["empty_answer"]["examples"][:2] == [
        {"place": "a.json[7]", "detail": "turn 1 of 2, beside: Hi"},
        {"place": "b.jsonl:8", "detail": "turn 1 of 2, beside: Hi"},
    ]
    assert report["mended"]["leading_turns"]["count"] == 3
    assert report["mended"]["split"]["count"] == sum(len(those) > 1 for those in parts)
    assert [source["source"] for source in report["sources"]] == [*NAMES]
    dataset = TokenDataset(prepared)
    for split, name in (("train", "train_rows"), ("heldout", "heldout_rows")):
        view = dataset.view("conversations", SEQ_LEN, split)  # pyright: ignore[reportArgumentType]
        assert len(view) == report[name] > 0


def test_the_table_names_each_reason_with_examples(
    conversations: Path, small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(small_tokenizer, conversations, tmp_path / "out") == 0
    shown = capsys.readouterr().out
    for line in (
        "records read                    180  in 3 sources",
        "conversations kept              174  96.67 %",
        "  of them held out                2",
        "  dropped                         3  has an empty answer",
        "a.json[7]  turn 1 of 2, beside: Hi",
        "b.jsonl:21  its fields are text",
        "  changed                         3  answers before the first question left out",
    ):
        assert line in shown
