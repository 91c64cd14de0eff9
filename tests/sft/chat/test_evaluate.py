"""'sft evaluate': a run has the scores of its export, and the runs of other stages another verb."""

from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.files.hub_folder import ModelFolder
from mobilellama.pretrain.evaluation.scored_model import open_scored_model
from mobilellama.sft.chat.evaluate import open_scored_chat
from mobilellama.sft.main import main
from tests.pretrain.helpers.likelihoods import likelihoods

pytest.importorskip("lm_eval")

MADE = Path(__file__).parents[2] / "fixtures/made_by_22bff75"


def at(folder: Path) -> ModelFolder:
    """A model that is named by its path."""
    return ModelFolder(path=str(folder), name=str(folder))


def test_a_lora_run_has_the_likelihoods_of_its_merged_export_to_the_last_bit(
    tmp_path: Path,
) -> None:
    run, output = MADE / "chat_run", tmp_path / "merged"
    arguments = ["--checkpoint", str(run), "--output", str(output), "--dtype", "fp32"]
    assert main(["merge", *arguments]) == 0
    expected = likelihoods(open_scored_chat(at(output)))
    assert likelihoods(open_scored_chat(at(run))) == expected
    assert likelihoods(open_scored_model(at(output))) == expected
    base = likelihoods(open_scored_chat(at(MADE / "model")))
    assert all(one != other for one, other in zip(base, expected, strict=True))


def test_the_run_of_another_stage_is_told_which_verb_scores_it() -> None:
    for opened, stage in ((open_scored_chat, "pretrain"), (open_scored_chat, "vlm"),
                          (open_scored_model, "sft"), (open_scored_model, "vlm")):  # fmt: skip
        run = {"pretrain": "run", "sft": "chat_run", "vlm": "see_run"}[stage]
        with (
            pytest.raises(ConfigError, match=f"Score it with 'mobilellama {stage} evaluate'"),
            opened(at(MADE / run)),
        ):
            pass


def test_a_run_is_known_again_and_leaves_no_folder() -> None:
    with open_scored_chat(at(MADE / "chat_run")) as first:
        assert {path.name for path in Path(first.folder).iterdir()} >= {"config.json"}
    with open_scored_chat(at(MADE / "chat_run")) as again:
        assert again.fingerprint == first.fingerprint
    with open_scored_chat(at(MADE / "model")) as other:
        assert other.fingerprint != first.fingerprint
    assert not Path(first.folder).exists() and not Path(again.folder).exists()
