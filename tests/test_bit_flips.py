"""No flipped bit in any file of a checkpoint or a dataset goes unnoticed."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.bit_flips import run_drill, table
from mobilellama.sft.main import main as sft_main
from mobilellama.tokenize.main import main as tokenize_main
from tests.helpers.ranks import run_ranks

MADE = Path(__file__).parent / "fixtures/made_by_22bff75"


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset of text and one of masked rows."""
    folder = tmp_path_factory.mktemp("datasets")
    text, rows = folder / "text", folder / "rows"
    common = ["--tokenizer", str(MADE / "dataset/tokenizer.model"), "--workers", "1", "--output"]
    cut = ["--slice_bytes", "4000", "--sources.root", str(MADE / "corpus")]
    assert tokenize_main(["run", *cut, *common, str(text)]) == 0
    given = ["--seq_len", "384", "--data.path", str(MADE / "chats.json")]
    assert sft_main(["prepare", *given, *common, str(rows)]) == 0
    return text, rows


def require_none_silent(outcomes: dict[str, Counter[str]], flips: int) -> None:
    counts = sum(outcomes.values(), Counter())
    print(table(outcomes))  # shown by pytest if the test fails
    assert counts.total() >= flips - len(outcomes)
    assert (counts["silent"], counts["crash"]) == (0, 0)
    assert all(kinds["found"] for kinds in outcomes.values())


def test_300_bits_of_datasets(datasets: tuple[Path, Path]) -> None:
    outcomes = run_drill([], datasets, 300, seed=1)
    assert {kind.partition(": ")[2] for kind in outcomes} == {
        "NNNNN.bin", "NNNNN.idx", "NNNNN.mask", "NNNNN.json", "dataset.json", "plan.json",
        "manifest.parquet", "report.json", "template.yaml", "tokenizer.model",
    }  # fmt: skip
    require_none_silent(outcomes, 300)


def finetune(run: Path) -> int:
    """Train an adapter for two steps in this process, a rank; the base is in a frozen file."""
    values: dict[str, Any] = yaml.safe_load((MADE / "chat_run/config.yaml").read_text())
    values["run"]["folder"], values["init"] = str(run), str(MADE / "model")
    values["data"]["path"] = str(MADE / "rows")
    del values["model"]  # the init has it
    config = run.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(values))
    return sft_main(["run", "--config", str(config)])


@pytest.mark.slow
def test_3000_bits_of_a_checkpoint_and_of_datasets(
    datasets: tuple[Path, Path], tmp_path: Path
) -> None:
    run_ranks(finetune, 1, tmp_path / "run")
    outcomes = run_drill([tmp_path / "run"], datasets, 3000, seed=2)
    assert {kind.partition(": ")[2] for kind in outcomes if kind.startswith("run: ")} == {
        "manifest.json", "rank-R.json", "rank-R.safetensors", "frozen/SHA.safetensors",
        "attempts/NNNN.json", "verdict.json", "digests.json", "tokenizer.model", "template.yaml",
    }  # fmt: skip
    require_none_silent(outcomes, 3000)


def test_old_files_without_digests_are_read_and_their_tensors_and_tokens_judged() -> None:
    """Of their JSON, some flips are silent, as they were then."""
    outcomes = run_drill([MADE / "chat_run"], [MADE / "dataset"], 60, seed=3)
    for kind, counts in outcomes.items():
        if kind.endswith((".bin", ".idx", ".safetensors", ".parquet", "rank-R.json")):
            assert counts["found"] == counts.total(), kind
