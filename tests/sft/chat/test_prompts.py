import json
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import DataError
from mobilellama.sft.chat.prompts import PromptRow, read_prompts
from mobilellama.sft.data.conversation import Turn


def read(tmp_path: Path, row: dict[str, Any], **options: Any) -> PromptRow:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (made,) = read_prompts(path, system=None, reserved=(), **options)
    return made


def test_an_answer_at_the_end_is_left_out_whatever_it_holds(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Hi"}
    for answer in (
        {"role": "assistant", "content": "Hello!"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]},
        {"from": "gpt", "value": "Hello!", "reasoning_content": "Well...", "weight": 0.5},
    ):
        row = read(tmp_path, {"messages": [asked, answer], "id": 3})
        assert row.turns == (Turn("user", "Hi"),)
        assert row.fields["messages"] == [asked, answer]


@pytest.mark.parametrize(
    "medium", [{"video": "a.mp4"}, {"audios": ["a.wav"]}, {"imageUrl": "a.png"}, {"file": "a.pdf"}]
)
def test_a_medium_that_is_not_read_is_refused_by_name(
    tmp_path: Path, medium: dict[str, Any]
) -> None:
    (name,) = medium
    with pytest.raises(DataError, match=rf"prompts.jsonl:1 has {name}, which is not read here"):
        read(tmp_path, {"prompt": "What is here?", **medium})
    with pytest.raises(DataError, match=f"has {name}"):
        read(tmp_path, {"text": "What?", **medium}, question="text", media=("image", "images"))
    assert read(tmp_path, {"prompt": "What is here?", name: None, "image_id": 3})


def test_an_image_is_the_callers_where_it_reads_them(tmp_path: Path) -> None:
    row = {"text": "What is here?", "image": "a.png"}
    assert read(tmp_path, row, question="text", media=("image", "images")).fields == row
    with pytest.raises(DataError, match="has image"):
        read(tmp_path, row, question="text")


def test_prompts_from_a_windows_editor_or_with_half_a_pair_are_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "Hi"}\r\n{"prompt": "a\\ud83d", "id": 1}\r\n')
    rows = read_prompts(path, system=None, reserved=())
    assert [row.turns for row in rows] == [(Turn("user", "Hi"),), (Turn("user", "a\ufffd"),)]
    assert rows[1].fields == {"prompt": "a\ufffd", "id": 1}
    path.write_bytes('{"prompt": "Hi"}'.encode("utf-16"))
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_prompts(path, system=None, reserved=())


def test_what_a_question_is_asked_with_elsewhere_is_counted_and_copied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "prompts.jsonl"
    row = {"prompt": "And you?", "history": [["Hi", "Hello!"]], "system": "", "source": "x"}
    path.write_text((json.dumps(row) + "\n") * 2)
    rows = read_prompts(path, system=None, reserved=())
    assert [row.turns for row in rows] == [(Turn("user", "And you?"),)] * 2
    assert rows[0].fields == row
    (told,) = [record.getMessage() for record in caplog.records]
    assert "2 of its rows have history, which is copied, and not shown to the model" in told
