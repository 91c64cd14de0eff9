import logging

import pytest

from mobilellama.pretrain.state.loading import report_changes


def test_fields_that_changed_are_told_and_those_of_a_newer_version_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = {"train": {"max_steps": 4, "seed": 1}, "init": "a", "gone": {"x": 1}}
    now = {"train": {"max_steps": 6, "seed": 1, "new": 5}, "init": "b", "as_is": False, "new": {}}
    with caplog.at_level(logging.INFO):
        report_changes(before, now)
    assert [record.getMessage() for record in caplog.records] == [
        "changed since the checkpoint: train.max_steps = 6, was 4",
        "changed since the checkpoint: init = b, was a",
    ]


def test_a_changed_length_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for max_steps, was in ((6, 4), (None, None)):  # None: epochs decide the length
            before = {"train": {"max_steps": was, "steps": 4}}
            report_changes(before, {"train": {"max_steps": max_steps, "steps": 6}})
    assert [record.getMessage() for record in caplog.records] == [
        "changed since the checkpoint: train.max_steps = 6, was 4",
        "changed since the checkpoint: train.steps = 6, was 4",
    ]
