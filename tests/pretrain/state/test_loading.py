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
