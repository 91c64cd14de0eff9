"""The file of all benchmarks' scores."""

import json
from pathlib import Path

import pytest

from mobilellama.vlm.benchmarks.all import BENCHMARKS
from mobilellama.vlm.benchmarks.benchmark import Scores
from mobilellama.vlm.benchmarks.scores_file import ScoresFile


def test_two_processes_may_add_to_one_scores_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    files = [
        ScoresFile(path, model="m", model_sha256="0", overwrite=False)
        for _ in range(len(BENCHMARKS))
    ]
    scores = Scores(score=60.0, metric="", questions=1, unanswered=0, tables={})
    for name, file in zip(BENCHMARKS, files, strict=True):
        file.add(name, scores, {"limit": None})
    found = json.loads(path.read_text())
    assert list(found["benchmarks"]) == list(BENCHMARKS)
    assert found["average"] == pytest.approx((5 * 60 + 3) / 6)
