import os
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.shards.dataset import PLAN, TOKENIZER, Identity, Plan, Slice
from mobilellama.tokenize.plan import join_plan
from mobilellama.tokenizers.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(small_tokenizer: Path) -> Tokenizer:
    return Tokenizer(small_tokenizer)


def make_plan(tokenizer: Tokenizer, *sizes: int) -> Plan:
    identity = Identity(
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        eos_id=2,
        dtype="uint16",
        seed=1,
        slice_bytes=100,
        heldout_share=0.1,
        encoder_version=1,
    )
    slices = tuple(
        Slice(subset="c4", bucket=i, source=f"c4/{i}.jsonl", size=size, start=0, end=size)
        for i, size in enumerate(sizes or (10, 20))
    )
    return Plan(identity=identity, slices=slices)


def test_the_first_writes_plan_and_tokenizer_and_others_join(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    plan = make_plan(tokenizer)
    for _ in range(2):
        join_plan(tmp_path / "a/b", plan, tokenizer)
        assert Plan.read(tmp_path / "a/b") == plan
        assert sorted(os.listdir(tmp_path / "a/b")) == [PLAN, TOKENIZER]
    assert (tmp_path / "a/b" / TOKENIZER).read_bytes() == tokenizer.model_bytes


def test_of_many_at_once_exactly_one_plan_wins(tmp_path: Path, tokenizer: Tokenizer) -> None:
    plans = [
        replace(make_plan(tokenizer), identity=replace(make_plan(tokenizer).identity, seed=seed))
        for seed in range(16)
    ]

    def join(plan: Plan) -> bool:
        try:
            join_plan(tmp_path / "out", plan, tokenizer)
        except ConfigError as error:
            assert error.field == "seed"
            return False
        return True

    with ThreadPool(16) as pool:
        joined = pool.map(join, plans)
    assert sum(joined) == 1
    assert Plan.read(tmp_path / "out") == plans[joined.index(True)]


@pytest.mark.parametrize(
    ("field", "value"), [("seed", 2), ("slice_bytes", 7), ("heldout_share", 0.2)]
)
def test_another_identity_is_refused_by_the_fields_name(
    tmp_path: Path, tokenizer: Tokenizer, field: str, value: float
) -> None:
    plan = make_plan(tokenizer)
    join_plan(tmp_path, plan, tokenizer)
    other = replace(plan, identity=replace(plan.identity, **{field: value}))
    before = getattr(plan.identity, field)
    with pytest.raises(ConfigError) as error:
        join_plan(tmp_path, other, tokenizer)
    assert str(error.value) == (
        f"{field} = {value}: the plan in {tmp_path} was begun with {field} = {before}. "
        "Use the same value, or another output folder."
    )


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((10, 21), "c4/1.jsonl from byte 0: 20 bytes in the plan, 21 now"),
        ((10, 20, 30), "c4/2.jsonl from byte 0: is not in the plan"),
        ((10,), "c4/1.jsonl from byte 0: is in the plan, but gone"),
    ],
)
def test_a_changed_corpus_is_refused_by_the_first_difference(
    tmp_path: Path, tokenizer: Tokenizer, sizes: tuple[int, ...], message: str
) -> None:
    join_plan(tmp_path, make_plan(tokenizer), tokenizer)
    with pytest.raises(ConfigError) as error:
        join_plan(tmp_path, make_plan(tokenizer, *sizes), tokenizer)
    assert str(error.value).startswith(f"sources = {message}")
    assert "Restore the corpus as it was, or use another output folder" in str(error.value)


def test_another_tokenizer_is_refused_by_both_hashes(
    tmp_path: Path, tokenizer: Tokenizer, llama_tokenizer: Path
) -> None:
    join_plan(tmp_path, make_plan(tokenizer), tokenizer)
    other = Tokenizer(llama_tokenizer)
    with pytest.raises(ConfigError) as error:
        join_plan(tmp_path, make_plan(other), other)
    assert str(error.value).startswith(f"tokenizer = {llama_tokenizer}: has sha256 9e556afd4421")
    assert tokenizer.sha256[:12] in str(error.value)


def test_a_folder_of_other_things_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"holds files \(thesis.tex, ...\) but no plan.json"):
        join_plan(tmp_path, make_plan(tokenizer), tokenizer)
    with pytest.raises(ConfigError, match=r"thesis.tex: is not a folder"):
        join_plan(tmp_path / "thesis.tex", make_plan(tokenizer), tokenizer)


def test_what_a_killed_planner_left_is_no_obstacle(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "plan.json.tmp.host.1.ab").mkdir()
    join_plan(tmp_path, make_plan(tokenizer), tokenizer)
    assert Plan.read(tmp_path) == make_plan(tokenizer)
