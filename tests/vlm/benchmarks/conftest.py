"""Files of all benchmarks, and 'vlm evaluate' on them."""

from pathlib import Path

import pytest

from tests.vlm.helpers.benchmark_files import write_benchmarks
from tests.vlm.helpers.evaluating import Evaluate, write_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", b"weights")


@pytest.fixture
def run(data: Path, model: Path, tmp_path: Path) -> Evaluate:
    return Evaluate(data, model, tmp_path / "results")
