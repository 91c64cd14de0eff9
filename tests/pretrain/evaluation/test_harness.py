"""The harness: its tasks by name, the model and tokenizer that it is given."""

import importlib.metadata
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.evaluation import harness
from mobilellama.pretrain.evaluation.scored_model import load_weights
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.pretrain.helpers.scored_model import write_model

pytest.importorskip("lm_eval")


def test_the_bos_switch_decides_the_ids_that_the_model_sees(
    base: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    chat = write_model(tmp_path / "chat", small_tokenizer, add_bos=True)
    tokenizer = Tokenizer(small_tokenizer)
    context = tokenizer.processor.encode("Question: x\nAnswer:")
    answer = tokenizer.processor.encode("Question: x\nAnswer: yes")[len(context) :]
    for folder, asked, expected in [
        (base, None, False),
        (base, False, False),
        (base, True, True),
        (chat, None, True),
        (chat, True, True),
        (chat, False, False),
    ]:
        loaded, add_bos = harness.load_tokenizer(str(folder), asked)
        assert add_bos is expected
        lm = harness.counting_model(
            load_weights(str(folder), "cpu", "fp32"), loaded, add_bos=add_bos, batch_size=1
        )
        start = [tokenizer.bos_id] if expected else []
        assert lm._encode_pair("Question: x\nAnswer:", " yes") == (start + context, answer)
        # An empty context: <s> if it is wanted, else the end of a former document.
        assert lm.prefix_token_id == (tokenizer.bos_id if expected else tokenizer.eos_id)


def test_a_config_that_cannot_be_read_is_told(base: Path, tmp_path: Path) -> None:
    assert harness.read_config(str(base)).vocab_size == 800
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"has no config\.json that transformers can load \("):
        harness.read_config(str(tmp_path))


def test_without_the_harness_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ConfigError, match=r"Install it: pip install 'mobilellama\[eval\]'"):
        harness.require_harness()


def test_a_name_that_stands_for_several_tasks_is_told() -> None:
    with pytest.raises(
        ConfigError, match=r"ai2_arc: is a group of 2 tasks, .*: arc_challenge,arc_ea"
    ):
        harness.Tasks(["ai2_arc"])
    with pytest.raises(ConfigError, match=r"mmlu_humanities: is a group of 13 tasks, .*,\.\.\."):
        harness.Tasks(["mmlu_humanities"])


@pytest.mark.slow  # reads all of the harness's tasks
def test_an_unknown_task_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        harness.Tasks(["arc_easy", "hellaswagg"])
    assert "tasks = hellaswagg: is not a task of the installed harness" in str(caught.value)
    assert str(caught.value).endswith("did you mean 'hellaswag'?")
