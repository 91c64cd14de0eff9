"""Local files of questions: where they lie, what a row holds, and what is told of a broken one."""

from pathlib import Path

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.pretrain.evaluation.data import LocalData
from tests.pretrain.helpers.eval_tasks import FILES, SUBJECTS, write_jsonl

CHOICE = {"validation_split": "validation", "training_split": "train"}  # a packaged task's splits


# --- Local data -----------------------------------------------------------------------------


def test_missing_data_is_told_with_task_path_and_fields(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        LocalData(tmp_path, "boolq", {"boolq": CHOICE}, 0)
    assert str(caught.value) == (
        f"data = {tmp_path}: has no boolq/validation.jsonl (or .parquet) for the task 'boolq'. "
        "A row of it is a JSON object with passage, question, label."
    )
    with pytest.raises(ConfigError, match=r"no truthfulqa_mc1/validation.jsonl nor truthfulqa/va"):
        LocalData(tmp_path, "truthfulqa_mc1", {"truthfulqa_mc1": CHOICE}, 0)
    write_jsonl(tmp_path / "piqa/validation.jsonl", FILES["piqa/validation.jsonl"])
    assert len(LocalData(tmp_path, "piqa", {"piqa": CHOICE}, 0).specs) == 1
    with pytest.raises(ConfigError, match=r"has no piqa/train.jsonl .* for the task 'piqa'"):
        LocalData(tmp_path, "piqa", {"piqa": CHOICE}, 1)


MMLU = {
    f"mmlu_{name}": {"test_split": "test", "fewshot_split": "dev", "dataset_name": name}
    for name in [*SUBJECTS, "virology"]
}


def test_mmlu_comes_in_one_file_or_a_folder_a_subject(data: Path, tmp_path: Path) -> None:
    for subject in SUBJECTS:
        for split in ("dev", "test"):
            rows = [row for row in FILES[f"mmlu/{split}.jsonl"] if row["subject"] == subject]
            write_jsonl(tmp_path / f"mmlu/{subject}/{split}.jsonl", rows)
    for folder in (data, tmp_path):
        specs = LocalData(folder, "mmlu", MMLU, 5).specs
        assert [spec["task"] for spec in specs] == [f"mmlu_{name}" for name in SUBJECTS]
        for spec, (subject, n) in zip(specs, SUBJECTS.items(), strict=True):
            made = spec["custom_dataset"]()
            assert {split: len(rows) for split, rows in made.items()} == {"test": n, "dev": 5}
            assert {*made["test"]["subject"]} == {subject}
            assert (spec["test_split"], spec["fewshot_split"]) == ("test", "dev")
    assert "dev" not in LocalData(tmp_path, "mmlu", MMLU, 0).specs[0]["custom_dataset"]()
    (tmp_path / "mmlu/anatomy/dev.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"has no mmlu/anatomy/dev.jsonl .* answer, subject"):
        LocalData(tmp_path, "mmlu", MMLU, 5)
    (tmp_path / "mmlu/anatomi").mkdir()
    with pytest.raises(
        DataError, match=r"'anatomi' is not a subject of MMLU; did you mean 'anatomy'"
    ):
        LocalData(tmp_path, "mmlu", MMLU, 5)
    with pytest.raises(ConfigError, match=r"has no mmlu/test.jsonl nor mmlu/SUBJECT/test.jsonl"):
        LocalData(tmp_path / "piqa", "mmlu", MMLU, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "piqa/validation.jsonl: is empty"),
        ("{}\n{", "piqa/validation.jsonl:2: is not JSON"),
        ("\n[1]\n", "piqa/validation.jsonl:2: must be a JSON object"),
        (
            '{"goal": "g", "sol1": "a", "label": 0}',
            "piqa/validation.jsonl:1: the row lacks 'sol2'; it needs goal, sol1, sol2, label",
        ),
        (
            '{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}\n'
            '{"goal": "g", "sol1": "a", "sol2": "b", "label": "0"}',
            "task 'piqa': a field changes its type from row to row",
        ),
    ],
)
def test_a_broken_row_is_told_by_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa/validation.jsonl").write_text(text)
    with pytest.raises(DataError) as caught:
        LocalData(tmp_path, "piqa", {"piqa": CHOICE}, 0)
    assert message in str(caught.value)


def test_a_field_inside_a_field_is_looked_for_too(tmp_path: Path) -> None:
    row = FILES["arc_easy/test.jsonl"][0] | {"choices": ["a", "b"]}
    write_jsonl(tmp_path / "arc_easy/test.jsonl", [row])
    with pytest.raises(DataError, match=r"the row lacks 'choices\.text'"):
        LocalData(tmp_path, "arc_easy", {"arc_easy": {"test_split": "test"}}, 0)


def test_a_table_with_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "arc_easy/test.parquet"
    path.parent.mkdir()
    parquet.write_table(pa.table({"question": pa.array([b"\xff"]).view(pa.string())}), path)
    with pytest.raises(DataError, match=rf"{path}: is damaged \('utf-8' codec"):
        LocalData(tmp_path, "arc_easy", {"arc_easy": {"test_split": "test"}}, 0)


def test_parquet_as_the_hub_has_it_gives_the_same_rows(data: Path, tmp_path: Path) -> None:
    from pyarrow import Table, parquet

    rows = FILES["arc_easy/test.jsonl"]
    (tmp_path / "arc_easy").mkdir()
    paths = [tmp_path / f"arc_easy/test-0000{i}-of-00002.parquet" for i in range(2)]
    for path, part in zip(paths, (rows[:5], rows[5:]), strict=True):
        parquet.write_table(Table.from_pylist(part), path)
    leaves = {"arc_easy": {"test_split": "test"}}
    made = [
        LocalData(folder, "arc_easy", leaves, 0).specs[0]["custom_dataset"]()["test"].to_list()
        for folder in (data, tmp_path)
    ]
    assert made[0] == made[1] == rows
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{paths[1]}: is damaged"):
        LocalData(tmp_path, "arc_easy", leaves, 0)
