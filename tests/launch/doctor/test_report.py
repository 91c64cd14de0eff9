"""The folder through which the processes of the doctor's job tell what they found."""

import threading
import time
from pathlib import Path

from mobilellama.launch.doctor.report import DONE, Report, read_reports, wait_for_files


def test_reports_are_read_by_rank_as_they_were_written(tmp_path: Path) -> None:
    assert read_reports(tmp_path) == []
    written = [
        Report(node=f"n{rank}", rank=rank, python="3.11", mobilellama="0.1", torch=None)
        for rank in (10, 2, 0)
    ]
    for report in written:
        report.write(tmp_path, "torch")
    assert [report.rank for report in read_reports(tmp_path)] == [0, 2, 10]
    written[0].write(tmp_path, DONE)  # over the earlier one
    assert [report.stage for report in read_reports(tmp_path)] == ["torch", "torch", DONE]


def test_the_files_that_do_not_come_are_named_once_the_time_is_up(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    started_s = time.monotonic()
    assert wait_for_files(tmp_path, ["c", "a", "b"], 0.2) == ["b", "c"]
    assert time.monotonic() - started_s >= 0.2


def test_the_wait_ends_with_the_last_file(tmp_path: Path) -> None:
    later = threading.Timer(0.1, (tmp_path / "a").touch)
    later.start()
    assert wait_for_files(tmp_path, ["a"], 60) == []
    later.join()
