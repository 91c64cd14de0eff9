"""Evaluation: the harness scores what our own forward pass scores, offline, task by task.

Everything runs on a random model of 200,000 parameters and the rows of ``eval_tasks.py``.
"""

import importlib.metadata
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

from mobilellama.config import ConfigError, DataError
from mobilellama.pretrain.evaluation import evaluate, harness
from mobilellama.pretrain.evaluation.data import ROW_FIELDS, LocalData
from mobilellama.pretrain.evaluation.evaluate import Config
from mobilellama.pretrain.evaluation.published_scores import PUBLISHED
from mobilellama.pretrain.evaluation.results import Results, fingerprint, withhold
from mobilellama.pretrain.evaluation.score_table import mean_of_comparable, score_table
from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.pretrain.model import LanguageModel, build_on
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.pretrain.conftest import Command
from tests.pretrain.helpers.eval_tasks import FILES, SUBJECTS, write_jsonl, write_tasks

pytest.importorskip("lm_eval")

CHOICE = {"validation_split": "validation", "training_split": "train"}  # a packaged task's splits


def write_model(folder: Path, tokenizer: Path, *, add_bos: bool) -> Path:
    """Write a random Llama with our tokenizer, long enough for TruthfulQA's prompt."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=800,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.1)
    model.save_pretrained(folder)
    Tokenizer(tokenizer).write_hf(folder, max_length_tokens=1024, add_bos=add_bos)
    return folder


@pytest.fixture(scope="module")
def base(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model: its tokenizer adds no <s>."""
    return write_model(tmp_path_factory.mktemp("models") / "base", small_tokenizer, add_bos=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local files of the ten tasks."""
    return write_tasks(tmp_path_factory.mktemp("data"))


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


def stored(path: Path, task: str) -> dict[str, Any]:
    return json.loads(path.read_text())["tasks"][task]


# --- Scores ---------------------------------------------------------------------------------


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
        lm = harness.load_model(
            str(folder), loaded, add_bos=add_bos, device="cpu", dtype="float32", batch_size=1
        )
        start = [tokenizer.bos_id] if expected else []
        assert lm._encode_pair("Question: x\nAnswer:", " yes") == (start + context, answer)
        # An empty context: <s> if it is wanted, else the end of a former document.
        assert lm.prefix_token_id == (tokenizer.bos_id if expected else tokenizer.eos_id)


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


# --- Going on -------------------------------------------------------------------------------


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
    assert "holds results with add_bos = false, and this call has true. Give another" in done.err
    chat = write_model(tmp_path / "chat", small_tokenizer, add_bos=True)
    done = command("pretrain", "evaluate", *common, "--model", chat, "--tasks", "piqa")
    assert done.code == 2 and f"output = {output}: holds results with model = " in done.err
    assert output.read_bytes() == before


def test_a_file_of_something_else_is_not_overwritten(base: Path, tmp_path: Path) -> None:
    output = tmp_path / "notes.json"
    head = {"model": {"fingerprint": fingerprint(str(base))}}
    head |= {"settings": {"add_bos": False, "dtype": "fp32"}}
    damaged = [
        {"piqa": 7},
        {"piqa": {**result(0.7), "date": "d"}},
        {"piqa": {**result(0.7), "date": "d", "settings": {}, "metrics": {"acc": "0.7"}}},
        {"piqa": {**result(0.7), "date": "d", "settings": {}, "answers": {"empty": 1}}},
    ]
    texts = [json.dumps(head | {"tasks": tasks}) for tasks in damaged]
    for text in ("mine", "[]", '{"model": 1}', *texts):
        output.write_text(text)
        with pytest.raises(ConfigError, match="exists and is no results file of 'pretrain eval"):
            Results.open(str(output), str(base), add_bos=False, dtype="fp32")
        assert output.read_text() == text
    with pytest.raises(ConfigError, match=r"its folder does not exist\. Make it"):
        Results.open(str(tmp_path / "no/where.json"), str(base), add_bos=False, dtype="fp32")


def test_the_fingerprint_knows_weights_config_and_tokenizer(base: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(base, tmp_path / "copied"))
    first = fingerprint(str(base))
    assert fingerprint(str(copied)) == first
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (copied / name).read_bytes()
        (copied / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert fingerprint(str(copied)) != first
        (copied / name).write_bytes(content)


# --- Local data -----------------------------------------------------------------------------


def test_missing_data_is_told_with_task_path_and_fields(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        LocalData(tmp_path, "boolq", {"boolq": CHOICE}, 0)
    assert str(caught.value) == (
        f"data = {tmp_path}: has no boolq/validation.jsonl (or .parquet) for the task 'boolq'. "
        "A row of it is a JSON object with passage, question, label."
    )
    with pytest.raises(ConfigError, match=r"no truthfulqa_mc1/validation.jsonl nor truthfulqa/va"):
        LocalData(tmp_path, "truthfulqa_mc1", {"truthfulqa_mc1": CHOICE}, 0)
    write_jsonl(tmp_path / "piqa/validation.jsonl", FILES["piqa/validation.jsonl"])
    assert len(LocalData(tmp_path, "piqa", {"piqa": CHOICE}, 0).specs) == 1
    with pytest.raises(ConfigError, match=r"has no piqa/train.jsonl .* for the task 'piqa'"):
        LocalData(tmp_path, "piqa", {"piqa": CHOICE}, 1)


MMLU = {
    f"mmlu_{name}": {"test_split": "test", "fewshot_split": "dev", "dataset_name": name}
    for name in [*SUBJECTS, "virology"]
}


def test_mmlu_comes_in_one_file_or_a_folder_a_subject(data: Path, tmp_path: Path) -> None:
    for subject in SUBJECTS:
        for split in ("dev", "test"):
            rows = [row for row in FILES[f"mmlu/{split}.jsonl"] if row["subject"] == subject]
            write_jsonl(tmp_path / f"mmlu/{subject}/{split}.jsonl", rows)
    for folder in (data, tmp_path):
        specs = LocalData(folder, "mmlu", MMLU, 5).specs
        assert [spec["task"] for spec in specs] == [f"mmlu_{name}" for name in SUBJECTS]
        for spec, (subject, n) in zip(specs, SUBJECTS.items(), strict=True):
            made = spec["custom_dataset"]()
            assert {split: len(rows) for split, rows in made.items()} == {"test": n, "dev": 5}
            assert {row["subject"] for row in made["test"]} == {subject}
            assert (spec["test_split"], spec["fewshot_split"]) == ("test", "dev")
    assert "dev" not in LocalData(tmp_path, "mmlu", MMLU, 0).specs[0]["custom_dataset"]()
    (tmp_path / "mmlu/anatomy/dev.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"has no mmlu/anatomy/dev.jsonl .* answer, subject"):
        LocalData(tmp_path, "mmlu", MMLU, 5)
    (tmp_path / "mmlu/anatomi").mkdir()
    with pytest.raises(DataError, match=r"'anatomi' is no subject of MMLU; did you mean 'anatomy'"):
        LocalData(tmp_path, "mmlu", MMLU, 5)
    with pytest.raises(ConfigError, match=r"has no mmlu/test.jsonl nor mmlu/SUBJECT/test.jsonl"):
        LocalData(tmp_path / "piqa", "mmlu", MMLU, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "piqa/validation.jsonl: is empty"),
        ("{}\n{", "piqa/validation.jsonl:2: is not JSON"),
        ("\n[1]\n", "piqa/validation.jsonl:2: must be a JSON object"),
        (
            '{"goal": "g", "sol1": "a", "label": 0}',
            "piqa/validation.jsonl:1: the row lacks 'sol2'; it needs goal, sol1, sol2, label",
        ),
        (
            '{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}\n'
            '{"goal": "g", "sol1": "a", "sol2": "b", "label": "0"}',
            "task 'piqa': a field changes its type from row to row",
        ),
    ],
)
def test_a_broken_row_is_told_by_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa/validation.jsonl").write_text(text)
    with pytest.raises(DataError) as caught:
        LocalData(tmp_path, "piqa", {"piqa": CHOICE}, 0)
    assert message in str(caught.value)


def test_a_field_inside_a_field_is_looked_for_too(tmp_path: Path) -> None:
    row = FILES["arc_easy/test.jsonl"][0] | {"choices": ["a", "b"]}
    write_jsonl(tmp_path / "arc_easy/test.jsonl", [row])
    with pytest.raises(DataError, match=r"the row lacks 'choices\.text'"):
        LocalData(tmp_path, "arc_easy", {"arc_easy": {"test_split": "test"}}, 0)


def test_a_table_with_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "arc_easy/test.parquet"
    path.parent.mkdir()
    parquet.write_table(pa.table({"question": pa.array([b"\xff"]).view(pa.string())}), path)
    with pytest.raises(DataError, match=rf"{path}: is damaged \('utf-8' codec"):
        LocalData(tmp_path, "arc_easy", {"arc_easy": {"test_split": "test"}}, 0)


def test_parquet_as_the_hub_has_it_gives_the_same_rows(data: Path, tmp_path: Path) -> None:
    from pyarrow import Table, parquet

    rows = FILES["arc_easy/test.jsonl"]
    (tmp_path / "arc_easy").mkdir()
    paths = [tmp_path / f"arc_easy/test-0000{i}-of-00002.parquet" for i in range(2)]
    for path, part in zip(paths, (rows[:5], rows[5:]), strict=True):
        parquet.write_table(Table.from_pylist(part), path)
    leaves = {"arc_easy": {"test_split": "test"}}
    made = [
        LocalData(folder, "arc_easy", leaves, 0).specs[0]["custom_dataset"]()["test"].to_list()
        for folder in (data, tmp_path)
    ]
    assert made[0] == made[1] == rows
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{paths[1]}: is damaged"):
        LocalData(tmp_path, "arc_easy", leaves, 0)


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


# --- Misuse ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": "piqa,,rte"}, "tasks = piqa,,rte: must name each task once"),
        ({"tasks": "piqa,piqa"}, "tasks = piqa,piqa: must name each task once"),
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


def test_a_model_that_is_none_is_told(base: Path, tmp_path: Path) -> None:
    def message(model: Path | str) -> str:
        with pytest.raises(ConfigError) as caught:
            evaluate.require_model(str(model))
        return str(caught.value)

    assert f"model = {tmp_path}/nowhere: is not a folder. Give the" in message(tmp_path / "nowhere")
    assert "has no config.json" in message(tmp_path)
    copied = Path(shutil.copytree(base, tmp_path / "copied"))
    for path in copied.glob("tokenizer*"):
        path.unlink()
    assert message(copied).endswith("has no tokenizer. Add its tokenizer.json.")
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="has no tokenizer that transformers can load"):
        harness.load_tokenizer(str(copied), None)
    evaluate.require_model("somebody/a-model-on-the-hub")  # may be; asking it is transformers' part


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


def test_the_help_needs_neither_torch_nor_the_harness() -> None:
    code = (
        "import sys, mobilellama.pretrain.evaluation.evaluate\n"
        "print({'torch', 'transformers', 'datasets', 'lm_eval'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_a_name_that_stands_for_several_tasks_is_told() -> None:
    with pytest.raises(ConfigError, match=r"ai2_arc: stands for 2 tasks, .*: arc_challenge,arc_ea"):
        harness.Tasks(["ai2_arc"])
    with pytest.raises(ConfigError, match=r"mmlu_humanities: stands for 13 tasks, .*,\.\.\."):
        harness.Tasks(["mmlu_humanities"])


@pytest.mark.slow  # reads all of the harness's tasks
def test_an_unknown_task_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        harness.Tasks(["arc_easy", "hellaswagg"])
    assert "tasks = hellaswagg: is no task of the installed harness" in str(caught.value)
    assert str(caught.value).endswith("did you mean 'hellaswag'?")


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


# --- The table ------------------------------------------------------------------------------


def result(acc: float, *, shots: int = 0, leaves: int = 0, **bad: int) -> dict[str, Any]:
    """Return what 100 questions gave, which were 200 requests."""
    counts = dict.fromkeys(("prompts_cut", "empty", "cut_off", "not_a_number"), 0) | bad
    return {
        "version": "1.0",
        "shots": shots,
        "samples": 100,
        "metrics": {"acc": acc, "acc_stderr": 0.05},
        "leaves": {str(i): {} for i in range(leaves)},
        "answers": {"asked": 200, **counts},
        "truncated_prompts": counts["prompts_cut"],
    }


def former(acc: float, *, truncated: int) -> dict[str, Any]:
    """Return a result of the version that counted cut prompts alone."""
    kept = {name: value for name, value in result(acc).items() if name != "answers"}
    return kept | {"truncated_prompts": truncated, "settings": {}, "date": "2026-01-01"}


def test_the_published_averages_are_the_means_of_the_published_columns() -> None:
    full = {
        name: result(0.5, shots=score.shots, leaves=57 if name == "mmlu" else 0)
        for name, score in PUBLISHED.items()
    }
    mean = mean_of_comparable(full)
    assert mean and mean["tasks"] == list(PUBLISHED) and mean["score"] == 0.5
    assert round(mean["mobilellama_1_4b"], 4) == 0.4490  # as the paper prints them
    assert round(mean["mobilellama_2_7b"], 4) == 0.4923


def test_the_table_compares_only_what_was_measured_alike() -> None:
    tasks = {
        "arc_easy": result(0.6),
        "boolq": result(0.5),
        "piqa": result(0.7, shots=3, prompts_cut=4),
        "mmlu": result(0.3, shots=5, leaves=56),
        "lambada_openai": result(0.4),
    }
    assert score_table(tasks, "runs/mine", limit=100).splitlines() == [
        "mine, and MobileLLaMA as published (arXiv 2312.16886, table 3)",
        "task            version  shots  metric    n  incomplete    score  stderr    1.4B    2.7B",
        "arc_easy            1.0      0  acc     100      0.00 %   0.6000  0.0500    0.61    0.68",
        "boolq               1.0      0  acc     100      0.00 %   0.5000  0.0500    0.53    0.61",
        "piqa                1.0      3  acc     100      2.00 %  0.7000*  0.0500       -       -",
        "mmlu                1.0      5  acc     100      0.00 %   0.3000  0.0500       -       -",
        "lambada_openai      1.0      0  acc     100      0.00 %   0.4000  0.0500       -       -",
        # (0.61 + 0.53) / 2 and (0.68 + 0.61) / 2
        "mean of 2                                                 0.5500          0.5700  0.6450",
        "Only the first 100 questions of each task (--limit): no measurement.",
        "Not compared: piqa (0 shots were published), mmlu (56 of 57 subjects).",
        "* piqa: 4 of 200 answers are incomplete, 2.00 % (4 prompts cut).",
    ]
    assert "mean" not in score_table({"piqa": result(0.7)}, "m", limit=None)


def test_too_many_incomplete_answers_withhold_a_score_and_few_mark_it() -> None:
    """Of 200 requests 20 are ten per cent, and 21 are more."""
    stored = {
        "arc_easy": result(0.6, empty=20),
        "boolq": result(0.5, empty=1),
        "piqa": result(0.75, not_a_number=21),
        "rte": result(0.5),
    }
    tasks = {name: withhold(its, show=False) for name, its in stored.items()}
    assert tasks["piqa"]["metrics"] == {"acc": None, "acc_stderr": None}
    why = "21 of 200 answers are incomplete, 10.50 % (21 not a number)"
    assert tasks["piqa"]["withheld"]["reason"] == why
    assert tasks["boolq"]["withheld"] is None
    mean = mean_of_comparable(tasks)
    assert mean and mean["tasks"] == ["arc_easy", "boolq", "rte"]
    *_, easy, boolq, piqa, _, last, odd, first, second, third, fourth = score_table(
        tasks, "m", limit=None
    ).splitlines()
    assert easy.split()[7:] == ["0.6000*", "0.0500", "0.61", "0.68"]
    assert boolq.split()[5:9] == ["0.50", "%", "0.5000", "0.0500"]
    assert piqa.split()[5:] == ["10.50", "%", "withheld", "-", "-", "-"]
    assert last.startswith("mean of 3") and "0.5333*" in last
    assert odd == (
        "No measurement, for other numbers of questions: arc_easy 100 of 2,376, boolq 100 of "
        "3,270, piqa 100 of 1,838, rte 100 of 277."
    )
    assert first == "Not compared: piqa (withheld)."
    assert second == "* arc_easy: 20 of 200 answers are incomplete, 10.00 % (20 empty)."
    assert third == "boolq: 1 of 200 answers are incomplete, 0.50 % (1 empty)."
    assert fourth == f"piqa is withheld: {why}. --show_withheld shows it all the same."
    # Nothing is lost: asked for, the score is back, with its mark.
    shown = withhold(tasks["piqa"], show=True)
    assert shown["metrics"] == stored["piqa"]["metrics"] and shown["withheld"] is None
    assert "0.7500*" in score_table({"piqa": shown}, "m", limit=None)
    assert withhold(shown, show=False) == tasks["piqa"] == withhold(tasks["piqa"], show=False)


def test_results_of_the_version_that_counted_cut_prompts_alone_are_read(
    base: Path, tmp_path: Path
) -> None:
    old = former(0.7, truncated=50)
    assert withhold(old, show=False) == old
    table = score_table({"piqa": old}, "m", limit=None).splitlines()
    assert table[2].split()[5:] == ["-", "0.7000", "0.0500", "0.73", "0.75"]
    assert table[-1] == "piqa: 50 prompts were cut at their start to the model's length."
    path = tmp_path / "results.json"
    stored = {"add_bos": False, "dtype": "fp32"}
    content = {"model": {"fingerprint": fingerprint(str(base))}, "settings": stored}
    path.write_text(json.dumps(content | {"tasks": {"piqa": old}}))
    before = path.read_bytes()
    results = Results.open(str(path), str(base), add_bos=False, dtype="fp32")
    assert results.tasks_of(["piqa"]) == {"piqa": old} and path.read_bytes() == before


def test_the_counting_model_tells_what_the_harness_hides(base: Path) -> None:
    from lm_eval.api.instance import Instance

    tokenizer, add_bos = harness.load_tokenizer(str(base), None)
    lm = harness.load_model(
        str(base), tokenizer, add_bos=add_bos, device="cpu", dtype="float32", batch_size=4
    )

    def ask(kind: Any, *arguments: tuple[Any, ...]) -> list[Any]:
        requests = [Instance(request_type=kind, doc={}, arguments=its, idx=0) for its in arguments]
        return getattr(lm, kind)(requests, disable_tqdm=True)

    long = "a file of lines " * 400  # of the context's 1024 tokens
    ask("loglikelihood", ("A short", " one"), (long, " one"), (long, " two"), (long, " three"))
    assert lm.take_counts().to_json() == {
        "asked": 4, "prompts_cut": 3, "empty": 0, "cut_off": 0, "not_a_number": 0,
    }  # fmt: skip
    # One batch, of which the harness warns once; a stop that comes at once leaves nothing.
    some = {"until": ["~~~"], "max_gen_toks": 3, "do_sample": False}
    first = ask("generate_until", ("A short", some))[0]
    assert first and lm.take_counts().bad["cut_off"] == 1
    none = some | {"until": [first[0]]}
    said = ask("generate_until", ("A short", none), (long, some), (f"b {long}", some))
    assert said[0] == ""
    counts = lm.take_counts()
    assert all(text.strip() for text in said[1:]), "cut off too, and of one kind all the same"
    assert counts.to_json() == {
        "asked": 3, "prompts_cut": 2, "empty": 1, "cut_off": 0, "not_a_number": 0,
    }  # fmt: skip
    ask("generate_until", (long, some), (f"b {long}", none))
    assert lm.take_counts().share == 1.0, "an answer of two kinds counts once"
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.fill_(float("nan"))
    ask("loglikelihood", ("A short", " one"), (long, " one"))
    assert lm.take_counts().to_json() == {
        "asked": 2, "prompts_cut": 1, "empty": 0, "cut_off": 0, "not_a_number": 1,
    }  # fmt: skip


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
    assert "task 'arc_easy': the harness cannot ask it of this model (an answer has" in done.err


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
    assert "task 'arc_easy': it can make no question of row 3 of its test data" in done.err
    assert done.err.rstrip().endswith("'answerKey': 'Z'}. Fix the row")
