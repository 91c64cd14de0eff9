"""A bucket of packed rows."""

import itertools
from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.sft.data.bucket import PackingWork, heldout_of, write_bucket
from mobilellama.sft.data.sources import ConversationsConfig
from mobilellama.sft.data.template import read_template
from mobilellama.sft.data.workers import EncodeSettings, encoding
from mobilellama.sft.prepare import Config, make_plan
from mobilellama.tokenizers.opening import open_tokenizer
from tests.sft.helpers.conversations import make_conversations, write_lines


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.5, 0.99])
def test_the_held_out_are_a_share_and_never_all_and_grow_one_by_one(share: float) -> None:
    counts = [heldout_of(n, share) for n in range(3_001)]
    steps = {after - before for before, after in itertools.pairwise(counts)}
    assert steps <= {0, 1}
    assert counts[3_000] == {0.0: 0, 0.001: 3, 0.01: 30, 0.3: 900, 0.5: 1_500, 0.99: 2_970}[share]
    assert all(count < n for n, count in enumerate(counts) if n)
    assert counts[:3] == ([0, 0, 1] if share else [0, 0, 0])


def test_data_that_changed_after_it_was_hashed_make_no_bucket(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "a.jsonl", make_conversations(5, scale=0.02))
    config = Config(
        data=ConversationsConfig(path=str(path)),
        tokenizer=str(small_tokenizer),
        output=str(tmp_path / "o"),
    )
    template, tokenizer = read_template("vicuna_v1"), open_tokenizer(str(small_tokenizer))
    plan = make_plan(config, template, tokenizer)
    work = PackingWork(
        folder=tmp_path / "o",
        identity=plan.identity,
        data=config.data,
        template=template,
        max_bad_share=0.1,
    )
    work.folder.mkdir()
    job = EncodeSettings(
        tokenizer=config.tokenizer,
        tokenizer_sha256=tokenizer.sha256,
        template=template,
        seq_len=2048,
    )
    content = path.read_bytes()
    path.write_bytes(content.replace(b"e", b"E", 1))
    with encoding(job, tokenizer, 1) as encode:
        with pytest.raises(DataError, match=r"a\.jsonl: has changed since this command hashed it"):
            write_bucket(work, plan.slices[0], encode, lambda *_: None, 0)
        assert not list(work.folder.rglob("*.json"))
        path.write_bytes(content)
        assert write_bucket(work, plan.slices[0], encode, lambda *_: None, 0).documents
