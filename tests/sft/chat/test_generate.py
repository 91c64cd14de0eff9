"""Files of prompts: batches answer as single prompts do, in order, and survive being killed."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.pretrain.conftest import Command, Outcome
from tests.sft.helpers.tiny_chat_model import (
    CONTEXT_TOKENS,
    answers_of_transformers,
    copy_chat_model,
)

MADE = Path(__file__).parents[2] / "fixtures/made_by_22bff75"
WORDS = "the file is opened and its lines are read one after another by the loop".split()


def questions(count: int) -> list[str]:
    """Prompts of 1 to about 100 tokens, in no order of length."""
    return [
        " ".join(WORDS[(i + n) % len(WORDS)] for n in range(i * 7 % 29 + 1)) for i in range(count)
    ]


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Generate:
    """The command, on one folder, with one input and output."""

    def __init__(self, command: Command, model: Path, folder: Path) -> None:
        self.command, self.model = command, model
        self.input, self.output = folder / "prompts.jsonl", folder / "answers.jsonl"

    def arguments(self, **fields: Any) -> list[str]:
        given = {"model": self.model, "input": self.input, "output": self.output, "device": "cpu"}
        given |= {"max_new_tokens": 12} | fields
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]

    def __call__(self, **fields: Any) -> Outcome:
        return self.command("sft", "generate", *self.arguments(**fields))

    def rows(self, **fields: Any) -> list[dict[str, Any]]:
        outcome = self(**fields)
        assert outcome.code == 0, outcome.err
        return read_rows(self.output)


@pytest.fixture
def generate(command: Command, tiny_chat_model: Path, tmp_path: Path) -> Generate:
    return Generate(command, tiny_chat_model, tmp_path)


def test_a_batch_gives_what_transformers_gives_for_each_prompt_alone(generate: Generate) -> None:
    asked = questions(11)
    write_rows(generate.input, [{"prompt": text} for text in asked])
    conversations = [[{"role": "user", "content": text}] for text in asked]
    expected = answers_of_transformers(generate.model, conversations, max_new_tokens=12)
    assert len({*expected}) > 5
    rows = generate.rows(batch_size=4)
    assert [row["prompt"] for row in rows] == asked
    assert [row["answer"] for row in rows] == expected
    for row in rows:
        assert (row["finish"], row["tokens"] == 12) in {("length", True), ("stop", False)}


def test_a_sampled_answer_does_not_depend_on_the_batch(generate: Generate) -> None:
    write_rows(generate.input, [{"prompt": text} for text in questions(9)])
    warm = {"temperature": 1.2, "top_p": 0.95, "seed": 3}
    generate.rows(batch_size=1, **warm)
    alone = generate.output.read_bytes()
    for batch_size in (2, 9):
        generate.rows(batch_size=batch_size, overwrite=True, **warm)
        assert generate.output.read_bytes() == alone
    generate.rows(batch_size=9, overwrite=True, **(warm | {"seed": 4}))
    assert generate.output.read_bytes() != alone


def test_equal_prompts_draw_differently(generate: Generate) -> None:
    write_rows(generate.input, [{"prompt": "the file"}] * 4)
    rows = generate.rows(temperature=1.5)
    assert len({row["answer"] for row in rows}) == 4


def test_every_shape_of_row_asks_the_same_and_other_fields_are_copied(generate: Generate) -> None:
    said, answered = "the file is read", "It is."
    rows: list[dict[str, Any]] = [
        {"id": "a", "prompt": said, "label": [1, {"x": None}]},
        {"messages": [{"role": "user", "content": said}], "id": 7},
        {"conversations": [{"from": "human", "value": said}]},
        {"conversations": [{"from": "human", "value": said}, {"from": "gpt", "value": answered}]},
        {
            "messages": [
                {"role": "user", "content": said}, {"role": "assistant", "content": answered},
                {"role": "user", "content": "and then"},
            ]
        },
    ]  # fmt: skip
    write_rows(generate.input, rows)
    answered_rows = generate.rows()
    assert len({row["answer"] for row in answered_rows[:4]}) == 1
    assert answered_rows[4]["answer"] != answered_rows[0]["answer"]
    added = {"answer", "finish", "tokens"}
    assert [{k: v for k, v in row.items() if k not in added} for row in answered_rows] == rows


def test_a_system_text_goes_to_the_rows_that_have_none(generate: Generate) -> None:
    asked = {"role": "user", "content": "the file"}
    own, given = ({"role": "system", "content": text} for text in ("Be brief.", "Be kind."))
    write_rows(generate.input, [{"prompt": "the file"}, {"messages": [own, asked]}])
    expected = answers_of_transformers(
        generate.model, [[given, asked], [own, asked]], max_new_tokens=12
    )
    assert [row["answer"] for row in generate.rows(system="Be kind.")] == expected
    assert expected[0] != expected[1]


def test_a_prompt_without_room_is_said_to_be_too_long(generate: Generate) -> None:
    """A context of 256: 'USER: a a ... ASSISTANT:' of 251 tokens leaves room for 5."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(generate.model)

    def prompt_of(tokens: int) -> str:
        frame = len(tokenizer("<s>USER: a ASSISTANT:", add_special_tokens=False).input_ids)
        return " ".join(["a"] * (tokens - frame + 1))

    lengths = [CONTEXT_TOKENS - 5, CONTEXT_TOKENS, CONTEXT_TOKENS + 90, 20]
    write_rows(generate.input, [{"prompt": prompt_of(length)} for length in lengths])
    rows = generate.rows()
    assert [row["finish"] for row in rows[1:3]] == ["too_long"] * 2
    assert [(row["answer"], row["tokens"]) for row in rows[1:3]] == [("", 0)] * 2
    assert (rows[0]["finish"], rows[0]["tokens"]) == ("length", 5)
    assert rows[3]["tokens"] == 12
    out = generate(overwrite=True).out
    assert f"{generate.output}: 4 answers (2 length, 2 too_long)" in out


def test_a_torn_output_is_finished_with_the_same_bytes(generate: Generate) -> None:
    write_rows(generate.input, [{"prompt": text} for text in questions(9)])
    warm = {"temperature": 1.0, "batch_size": 2}
    generate.rows(**warm)
    whole = generate.output.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (0, len(lines[0]), len(lines[0]) + 9, len(whole) - 1):
        generate.output.write_bytes(whole[:cut])
        outcome = generate(**warm)
        assert outcome.code == 0
        assert generate.output.read_bytes() == whole
        missing = 9 - whole[:cut].count(b"\n")
        assert f"{missing} of them now" in outcome.out
    outcome = generate(**(warm | {"batch_size": 5}))  # which changes no answer
    assert "of them now" not in outcome.out
    assert "9 answers" in outcome.out


def test_an_output_made_otherwise_is_refused(
    generate: Generate, small_tokenizer: Path, tmp_path: Path
) -> None:
    rows: list[Any] = [{"prompt": text} for text in questions(3)]
    write_rows(generate.input, rows)
    generate.rows()
    before = generate.output.read_bytes()

    def refusal(**fields: Any) -> str:
        outcome = generate(**fields)
        assert outcome.code == 2
        assert generate.output.read_bytes() == before
        assert "Give another --output, or --overwrite to begin again" in outcome.err
        return outcome.err

    assert "was made with temperature 0.0, not 0.5" in refusal(temperature=0.5)
    assert "was made with max_new_tokens 12, not 13" in refusal(max_new_tokens=13)
    assert "was made with system null, not x" in refusal(system="x")
    assert "was made with dtype float32, not bfloat16" in refusal(dtype="bf16")
    shutil.copytree(generate.model, tmp_path / "other")
    weights = tmp_path / "other" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x01
    data[len(data) // 2 : len(data) // 2 + 9] = bytes(9)
    weights.write_bytes(data)
    assert "was made with model_sha256" in refusal(model=tmp_path / "other")
    write_rows(generate.input, [*rows, {"prompt": "one more"}])
    assert "was made with input_sha256" in refusal()
    meta = generate.output.with_name("answers.jsonl.meta.json")
    meta.write_text("{")
    assert "meta.json is damaged" in refusal()
    meta.unlink()
    assert "no answers.jsonl.meta.json that says how it was made" in refusal()
    assert len(generate.rows(overwrite=True)) == 4


def test_lines_that_are_no_answers_to_these_rows_are_named(generate: Generate) -> None:
    write_rows(generate.input, [{"prompt": text} for text in questions(3)])
    rows = generate.rows()
    write_rows(generate.output, [rows[0], rows[2]])
    assert "line 2 is not an answer to row 2 of the input" in generate().err
    without = {name: value for name, value in rows[0].items() if name != "finish"}
    write_rows(generate.output, [without])
    assert "line 1 is not an answer to row 1 of the input" in generate().err
    generate.output.write_text("[]\n")
    assert "line 1 is not an answer to row 1 of the input" in generate().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"id": 3}', "must have one of prompt, messages, conversations; it has id"),
        ('{"prompt": "a", "messages": []}', "it has prompt and messages"),
        ('{"prompt": 3}', "prompt must be a string"),
        ('{"prompt": "a", "finish": 1}', "has the field finish, which the output adds"),
        ('{"messages": []}', "they are none"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "unknown role"),
        ('{"messages": [{"role": "user"}]}', "content is not text"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "they are none"),
        (
            '{"conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]}',
            "they are user, user",
        ),
        ('{"messages": [{"role": "system", "content": "x"}]}', "they are system"),
    ],
)
def test_a_bad_row_is_named_before_a_model_is_loaded(
    generate: Generate, tmp_path: Path, line: str, message: str
) -> None:
    shutil.copytree(generate.model, tmp_path / "hollow")
    (tmp_path / "hollow" / "model.safetensors").unlink()  # loading it would be another error
    generate.input.write_text(f'{{"prompt": "fine"}}\n\n{line}\n')
    outcome = generate(model=tmp_path / "hollow")
    assert outcome.code == 2
    assert f"{generate.input}:3" in outcome.err
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not generate.output.exists()


def test_a_row_that_the_template_refuses_is_named(generate: Generate, tmp_path: Path) -> None:
    template = tmp_path / "no_system.yaml"
    template.write_text(
        'about: a test\nsource: a test\nbos: true\nuser: "Q: {content} "\nprompt: "A:"\n'
        'assistant: " {content}"\nend: "</s>"\nbetween: ""\nspecials: ["</s>"]\nstop: ["</s>"]\n'
    )
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    write_rows(generate.input, [{"prompt": "a"}, {"messages": messages}])
    err = generate(template=template).err
    assert f"{generate.input}:2: the chat template refuses this: " in err


def test_a_broken_template_is_blamed_and_no_row(generate: Generate, tmp_path: Path) -> None:
    folder = copy_chat_model(generate.model, tmp_path / "odd", chat_template="{{ 'a' }}{% if %}")
    write_rows(generate.input, [{"prompt": "a"}])
    outcome = generate(model=folder)
    assert outcome.code == 2
    assert f"the chat template in {folder}/" in outcome.err and "is not Jinja" in outcome.err
    assert str(generate.input) not in outcome.err
    assert not generate.output.exists()


def test_a_full_disk_is_told_with_the_file_and_the_command_goes_on(generate: Generate) -> None:
    write_rows(generate.input, [{"prompt": question} for question in questions(40)])
    expected = generate.rows()
    generate.output.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))  # more than what is beside it
    try:
        outcome = generate(batch_size=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.code == 2
    assert outcome.err.strip().splitlines()[-1] == (
        f"mobilellama: error: {generate.output}: the disk is full (File too large). No "
        "half-written file is used. Free some space and run the same command again"
    )
    assert generate.rows() == expected


def test_wrong_files_are_refused(generate: Generate, tmp_path: Path) -> None:
    assert "input = " in generate().err
    generate.input.write_text("\n \n")
    assert "has no prompts" in generate().err
    write_rows(generate.input, [{"prompt": "a"}])
    assert "output = " in (err := generate(output=generate.input).err) and "is the input" in err
    assert "is a folder" in generate(output=tmp_path).err
    assert "is not a folder" in generate(output=tmp_path / "absent" / "answers.jsonl").err
    with open(generate.output, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "is being written by another process" in generate().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_to_the_same_answers(
    generate: Generate, number: signal.Signals
) -> None:
    write_rows(generate.input, [{"prompt": text} for text in questions(200)])
    fields = {"temperature": 1.0, "batch_size": 2, "max_new_tokens": 40}
    command = [
        sys.executable,
        "-m",
        "mobilellama",
        "sft",
        "generate",
        *generate.arguments(**fields),
    ]
    process = subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline_s = time.monotonic() + 120
    while not generate.output.exists() or generate.output.read_bytes().count(b"\n") < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert ("stopped by Ctrl-C; the same command goes on" in err) == (number == signal.SIGINT)
    there = generate.output.read_bytes().count(b"\n")
    assert 4 <= there < 200
    # The rest in this process, with other batches; then all of it afresh.
    outcome = generate(**(fields | {"batch_size": 50}))
    assert f"{200 - there} of them now" in outcome.out
    resumed = read_rows(generate.output)
    afresh = generate.rows(**(fields | {"batch_size": 50, "overwrite": True}))
    different = sum(one != other for one, other in zip(resumed, afresh, strict=True))
    # Other batches sum in another order: of 8000 tokens, one may come to a tie and turn.
    assert different <= 1


def test_a_run_answers_as_the_folder_that_is_made_of_it_and_is_gone_on_with(
    command: Command, tmp_path: Path
) -> None:
    run = MADE / "chat_run"
    merged = tmp_path / "merged"
    assert command("sft", "merge", run, "--output", merged, "--dtype", "fp32").code == 0
    rows = {}
    for name, model in (("run", run), ("folder", merged)):
        folder = tmp_path / f"answers_of_{name}"
        folder.mkdir()
        generate = Generate(command, model, folder)
        write_rows(generate.input, [{"prompt": text} for text in questions(3)])
        rows[name] = generate.rows()
        assert generate().code == 0  # all rows have answers already
        assert read_rows(generate.output) == rows[name]
    assert rows["run"] == rows["folder"]
