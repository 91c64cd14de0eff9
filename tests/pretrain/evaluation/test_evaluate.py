"""Evaluation: the harness scores what our own forward pass scores, offline, task by task.

Everything runs on a random model of 200,000 parameters and the rows of ``eval_tasks.py``.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilellama.config import ConfigError
from mobilellama.pretrain.evaluation import evaluate, harness
from mobilellama.pretrain.evaluation.data import ROW_FIELDS
from mobilellama.pretrain.evaluation.evaluate import Config
from mobilellama.pretrain.evaluation.published_scores import PUBLISHED
from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.pretrain.model import LanguageModel, build_on
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.pretrain.conftest import Command
from tests.pretrain.helpers.eval_tasks import FILES, SUBJECTS, write_jsonl
from tests.pretrain.helpers.scored_model import write_model

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def ours(base: Path) -> LanguageModel:
    """Our own model with the same weights."""
    source = HfFolder(base)
    model = build_on(torch.device("cpu"), source.config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(source.parameter(name))
    return model


class Hand:
    """Log-likelihoods by our own forward pass and sentencepiece's own ids."""

    def __init__(self, model: LanguageModel, tokenizer: Path, *, add_bos: bool) -> None:
        self.model, self.tokenizer = model, Tokenizer(tokenizer)
        self.start = [self.tokenizer.bos_id] if add_bos else []

    def loglikelihood(self, context: str, answer: str) -> float:
        """Return the sum of the log-probabilities of the answer's tokens."""
        ids = self.start + self.tokenizer.processor.encode(context + answer)
        cut = len(self.start) + len(self.tokenizer.processor.encode(context))
        with torch.no_grad():
            logprobs = self.model.logits(torch.tensor([ids])).log_softmax(-1)[0]
        return sum(float(logprobs[i - 1, ids[i]]) for i in range(cut, len(ids)))

    def arc(self, rows: list[dict[str, Any]]) -> tuple[float, float]:
        """Return the accuracy, plain and by length in characters."""
        plain = normed = 0
        for row in rows:
            context = f"Question: {row['question']}\nAnswer:"
            texts = row["choices"]["text"]
            right = row["choices"]["label"].index(row["answerKey"])
            scores = [self.loglikelihood(context, f" {text}") for text in texts]
            by_length = [score / len(text) for score, text in zip(scores, texts, strict=True)]
            plain += scores.index(max(scores)) == right
            normed += by_length.index(max(by_length)) == right
        return plain / len(rows), normed / len(rows)

    def truthfulqa_mc2(self, rows: list[dict[str, Any]], prompt: str) -> float:
        """Return the mean share of probability on the true answers."""
        shares = []
        for row in rows:
            context = f"{prompt}\n\nQ: {row['question']}\nA:"
            targets = row["mc2_targets"]
            p = [math.exp(self.loglikelihood(context, f" {c}")) for c in targets["choices"]]
            true = sum(p[i] for i, label in enumerate(targets["labels"]) if label)
            shares.append(true / sum(p))
        return sum(shares) / len(shares)


def truthfulqa_prompt() -> str:
    """Return the six examples that the packaged task begins every prompt with."""
    text = str(harness.Tasks(["truthfulqa_mc2"]).config("truthfulqa_mc2")["doc_to_text"])
    found = re.search(r"prompt_qa = '(.*?)'%}", text, re.DOTALL)
    assert found and found[1].count("Q: ") == 6
    return re.sub(r"\s*\\n\s*", "\n", found[1]).strip() if "\\n" in found[1] else found[1].strip()


def stored(path: Path, task: str) -> dict[str, Any]:
    return json.loads(path.read_text())["tasks"][task]


def run(command: Command, *arguments: object) -> str:
    """Run the command, which must succeed; return what it printed."""
    done = command("pretrain", "evaluate", *arguments)
    assert done.code == 0, done.err
    return done.out


def run_alone(*arguments: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, whose libraries read the environment afresh."""
    return subprocess.run(
        [sys.executable, "-m", "mobilellama", "pretrain", "evaluate", *map(str, arguments)],
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_scores_are_those_of_our_own_forward_pass_with_and_without_bos(
    command: Command,
    base: Path,
    data: Path,
    ours: LanguageModel,
    small_tokenizer: Path,
    tmp_path: Path,
) -> None:
    found = {}
    for add_bos in (False, True):
        output = tmp_path / f"{add_bos}.json"
        arguments = ["--model", base, "--data", data, "--output", output]
        tasks = ["--tasks", "arc_easy,truthfulqa_mc2", "--limit", "4"]
        run(command, *arguments, *tasks, *(["--add_bos"] if add_bos else []))
        hand = Hand(ours, small_tokenizer, add_bos=add_bos)
        arc = stored(output, "arc_easy")
        plain, normed = hand.arc(FILES["arc_easy/test.jsonl"][:4])
        assert arc["metrics"]["acc"] == pytest.approx(plain)
        assert arc["metrics"]["acc_norm"] == pytest.approx(normed)
        assert (arc["samples"], arc["shots"], arc["version"]) == (4, 0, "1.0")
        truthful = stored(output, "truthfulqa_mc2")
        rows = FILES["truthfulqa/validation.jsonl"][:4]
        expected = hand.truthfulqa_mc2(rows, truthfulqa_prompt())
        # Sums of tens of log-probabilities, batched and padded there and single here.
        assert truthful["metrics"]["acc"] == pytest.approx(expected, rel=1e-4)
        assert truthful["truncated_prompts"] == 0
        assert json.loads(output.read_text())["settings"]["add_bos"] is add_bos
        found[add_bos] = truthful["metrics"]["acc"]
    # Far more than the tolerance above: what the model sees is really another prompt.
    assert abs(found[True] - found[False]) > 1e-3 * found[False]


@pytest.mark.slow
def test_all_ten_tasks_run_without_a_network_or_a_cache(
    base: Path, data: Path, tmp_path: Path
) -> None:
    output, home = tmp_path / "results.json", tmp_path / "home"
    # Port 9 answers nobody: an attempt to fetch would fail the command.
    environment = {"HF_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = run_alone("--model", base, "--data", data, "--output", output, environment=environment)
    assert done.returncode == 0, done.stderr
    assert not (home / "hub").exists() and not (home / "datasets").exists()
    found = json.loads(output.read_text())
    assert list(found["tasks"]) == list(PUBLISHED)
    for name, result in found["tasks"].items():
        assert 0 <= result["metrics"]["acc"] <= 1 and result["metrics"]["acc_stderr"] > 0
        assert result["shots"] == PUBLISHED[name].shots
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"{name} "))
        assert f"{result['metrics']['acc']:.4f}" in line
    # MMLU: the mean over questions, not over subjects, of the two that the data has.
    mmlu = found["tasks"]["mmlu"]
    assert mmlu["samples"] == sum(SUBJECTS.values()) == 15
    by_subject = {name.removeprefix("mmlu_"): its["acc"] for name, its in mmlu["leaves"].items()}
    assert set(by_subject) == set(SUBJECTS)
    assert mmlu["metrics"]["acc"] == pytest.approx(
        sum(by_subject[name] * n for name, n in SUBJECTS.items()) / 15
    )
    assert "Not compared: mmlu (2 of 57 subjects)." in done.stdout
    assert "mmlu: the data has 2 of 57 subjects" in done.stderr
    assert found["mean"]["tasks"] == [name for name in PUBLISHED if name != "mmlu"]
    # Nothing of the libraries' own logging: bars, and lines of ours.
    lines = [part for line in done.stderr.splitlines() for part in line.split("\r") if part]
    ours = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [IW] ")
    assert [line for line in lines if not ours.match(line) and "it/s" not in line] == []


@pytest.mark.slow
def test_a_second_call_runs_only_what_is_missing(
    command: Command, base: Path, data: Path, tmp_path: Path, small_tokenizer: Path
) -> None:
    output, mine = tmp_path / "results.json", tmp_path / "data"
    shutil.copytree(data, mine)
    common = ["--model", base, "--data", mine, "--output", output]
    run(command, *common, "--tasks", "piqa")
    # A mark that only a new run would remove.
    content = json.loads(output.read_text())
    content["tasks"]["piqa"]["metrics"]["acc"] = 0.125
    output.write_text(json.dumps(content))
    printed = run(command, *common, "--tasks", "rte,piqa")
    assert stored(output, "piqa")["metrics"]["acc"] == 0.125
    assert list(json.loads(output.read_text())["tasks"]) == ["piqa", "rte"]
    assert re.search(r"^piqa .* 0\.1250 ", printed, re.MULTILINE)
    # Other settings of a task, or other data: run again.
    run(command, *common, "--tasks", "piqa", "--limit", 2)
    assert stored(output, "piqa")["metrics"]["acc"] != 0.125
    assert stored(output, "piqa")["samples"] == 2
    first = stored(output, "rte")
    rows = FILES["rte/validation.jsonl"]
    write_jsonl(mine / "rte/validation.jsonl", rows[:4])
    run(command, *common, "--tasks", "rte")
    assert (first["samples"], stored(output, "rte")["samples"]) == (10, 4)
    # Other settings of the model, or another model: refused, and the file is as it was.
    before = output.read_bytes()
    done = command("pretrain", "evaluate", *common, "--tasks", "piqa", "--add_bos")
    assert done.code == 2
    assert "holds results with add_bos = false, but this call has true. Give another" in done.err
    chat = write_model(tmp_path / "chat", small_tokenizer, add_bos=True)
    done = command("pretrain", "evaluate", *common, "--model", chat, "--tasks", "piqa")
    assert done.code == 2 and f"output = {output}: holds results with model = " in done.err
    assert output.read_bytes() == before


def test_the_help_names_every_task_with_its_shots_split_and_fields() -> None:
    tasks = harness.Tasks(list(PUBLISHED))
    text = str(evaluate.__doc__)
    assert set(ROW_FIELDS) == set(PUBLISHED)
    for name, score in PUBLISHED.items():
        leaf = next(iter(tasks.leaves(name).values()))
        split = leaf.get("test_split") or leaf["validation_split"]
        folder = "truthfulqa" if name.startswith("truthfulqa") else name
        assert re.search(rf"^    {name} +{score.shots}  {folder}/{split}\.jsonl", text, re.M)
        assert all(field in text for field in ROW_FIELDS[name])
    assert len(tasks.leaves("mmlu")) == 57


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": ["piqa", "", "rte"]}, "tasks = piqa,,rte: must name each task once"),
        ({"tasks": []}, "tasks = (empty): must name each task once"),
        ({"tasks": ["piqa", "piqa"]}, "tasks = piqa,piqa: must name each task once"),
        ({"fewshot": -1}, "fewshot = -1: must be at least 0"),
        ({"limit": 0}, "limit = 0: must be at least 1"),
        ({"batch_size": 0}, "batch_size = 0: must be at least 1"),
        ({"data": "/no/where"}, "data = /no/where: is not a folder"),
    ],
)
def test_fields_that_break_a_rule_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(model="m", **fields)
    assert str(caught.value).startswith(message)


def test_the_help_needs_neither_torch_nor_the_harness() -> None:
    code = (
        "import sys, mobilellama.pretrain.evaluation.evaluate\n"
        "print({'torch', 'transformers', 'datasets', 'lm_eval'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.slow
def test_fetched_mmlu_is_one_score_over_57_subjects(
    command: Command, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked = []

    def load_dataset(path: str, name: str, **_: Any) -> datasets.DatasetDict:
        """Stand in for the hub: two questions and five examples of any subject."""
        asked.append((path, name))
        rows = FILES["mmlu/test.jsonl"]
        splits = {"test": rows[:2], "dev": rows[:5]}
        return datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in splits.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    output = tmp_path / "results.json"
    printed = run(command, "--model", base, "--tasks", "mmlu", "--limit", 1, "--output", output)
    mmlu = stored(output, "mmlu")
    assert len(asked) == len(set(asked)) == len(mmlu["leaves"]) == mmlu["samples"] == 57
    assert {path for path, _ in asked} == {"cais/mmlu"}
    right = sum(leaf["acc"] for leaf in mmlu["leaves"].values())
    assert mmlu["metrics"] == {"acc": pytest.approx(right / 57)}  # one question has no deviation
    row = r"^mmlu +2 +5  acc +57 +0\.00 %  0\.\d{4} +-  0\.2497 +0\.273$"
    assert re.search(row, printed, re.M)


@pytest.mark.slow
def test_data_that_cannot_be_fetched_is_told(base: Path, tmp_path: Path) -> None:
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = run_alone("--model", base, "--tasks", "piqa", environment=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "mobilellama: error: task 'piqa': its data cannot be fetched (" in done.stderr
    assert "give --data DIR with local files" in done.stderr


@pytest.mark.slow
def test_a_context_too_short_for_the_prompts_withholds_the_score(
    command: Command, base: Path, data: Path, tmp_path: Path
) -> None:
    """TruthfulQA's prompt alone is longer than 128 tokens; ARC's questions fit."""
    short, output = tmp_path / "short", tmp_path / "results.json"
    shutil.copytree(base, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))
    arguments = ["--model", short, "--data", data, "--output", output]
    arguments += ["--tasks", "arc_easy,truthfulqa_mc1", "--limit", 4]
    printed = run(command, *arguments)
    assert stored(output, "arc_easy")["withheld"] is None
    truthful = stored(output, "truthfulqa_mc1")
    assert truthful["metrics"]["acc"] is None
    assert truthful["answers"]["prompts_cut"] == truthful["answers"]["asked"] == 16
    why = "16 of 16 answers are incomplete, 100.00 % (16 prompts cut)"
    assert truthful["withheld"]["reason"] == why
    assert f"truthfulqa_mc1 is withheld: {why}." in printed
    # The score is kept aside, and asked for it needs no second run.
    shown = run(command, *arguments, "--show_withheld")
    whole = stored(output, "truthfulqa_mc1")
    assert whole["metrics"] == truthful["withheld"]["metrics"] and whole["withheld"] is None
    assert whole["date"] == truthful["date"]
    assert f"{whole['metrics']['acc']:.4f}*" in shown
    # Where not even the answers fit, the harness asserts.
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4}))
    arguments[arguments.index(output)] = tmp_path / "other.json"
    done = command("pretrain", "evaluate", *arguments)
    assert done.code == 2 and "Traceback" not in done.err
    assert "task 'arc_easy': the harness cannot run it on this model (an answer has" in done.err


@pytest.mark.slow
def test_a_row_of_which_the_task_makes_no_question_is_named_before_the_model_answers(
    command: Command, base: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    rows = FILES["arc_easy/test.jsonl"]
    broken = [*rows[:2], rows[2] | {"answerKey": "Z"}]
    write_jsonl(tmp_path / "data/arc_easy/test.jsonl", broken)
    fields = ["--model", base, "--data", tmp_path / "data", "--tasks", "arc_easy"]
    done = command("pretrain", "evaluate", *fields)
    assert done.code == 2
    assert "task 'arc_easy': it cannot make a question of row 3 of its test data" in done.err
    assert done.err.rstrip().endswith("'answerKey': 'Z'}. Fix the row")
