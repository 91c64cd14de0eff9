"""What the cards of exports have in common."""

import logging
from pathlib import Path

import pytest

from mobilellama.pretrain.hf.card_parts import LastLosses, learnt_from, losses_table, write_card

LOSSES = LastLosses(training={"": 2.0, "c4": 1.5, "arxiv": 2.5}, validation={"": 2.25})


def written(path: Path, license_name: str | None) -> str:
    write_card(
        path, title="a/b", license_name=license_name, introduction="It.", sections={"S": "t"}
    )
    return path.read_text()


def test_a_card_without_a_licence_names_none_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = written(tmp_path / "README.md", None)
    assert "license" not in text and "library_name: transformers" in text
    assert text.endswith("# a/b\n\nIt.\n\n## S\n\nt\n")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "Give one with --license NAME" in record.message


def test_a_licence_that_is_given_stands_in_the_metadata_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "license: mit\n" in written(tmp_path / "README.md", "mit")
    assert caplog.records == []


def test_losses_stand_by_subset_with_a_dash_where_none_was_written() -> None:
    assert losses_table("subset", LOSSES).splitlines() == [
        "| subset | training loss | held-out loss |",
        "| --- | --- | --- |",
        "| all | 2.0000 | 2.2500 |",
        "| arxiv | 2.5000 | - |",
        "| c4 | 1.5000 | - |",
    ]


def test_shares_are_a_column_in_the_order_of_the_mixture() -> None:
    shares = {"github": "60.00 %", "c4": "40.00 %"}
    assert losses_table("subset", LOSSES, shares).splitlines()[2:] == [
        "| all | 100.00 % | 2.0000 | 2.2500 |",
        "| github | 60.00 % | - | - |",
        "| c4 | 40.00 % | 1.5000 | - |",
    ]


def test_what_the_model_learnt_from_are_the_datasets_subsets() -> None:
    assert learnt_from("texts", ["c4", "arxiv"]).startswith(
        "It learnt from the texts of `arxiv`, `c4`: it repeats their errors"
    )
    assert learnt_from("samples", []).startswith("It learnt from the samples: it")
