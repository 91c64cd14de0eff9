"""The tables fit 80 columns and say what a run that does not fit needs."""

import pytest

from mobilellama.pretrain.main import main


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(["plan", *words])
    return capsys.readouterr().out


def test_the_plan_of_the_paper_s_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ("--config", "mobilellama_1_4b", "--gpus", "160", "--gpu", "a100-80g")
    out = printed(capsys, *words, "--mfu", "0.542")
    assert max(map(len, out.splitlines())) <= 80
    for line in (
        "total       1,364,297,728",
        "weights             2.54",
        "fit            it fits",
        "step           5,242,880 tokens, 47.2 PFLOP, 1.74 s",
        "time           120.1 h (5.0 days), 19,220 GPU-hours at an MFU of 0.542",
        "disk           458.4 GB: 27 checkpoints, one more while it is saved",
    ):
        assert line in out.splitlines()


def test_what_does_not_fit_is_told_with_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(
        printed(capsys, "--config", "mobilellama_2_7b", "--gpus", "8", "--gpu", "a100-40g").split()
    )
    assert "it does not fit. Any of these fits: --train.micro_batch_size 1; " in out
    out = " ".join(
        printed(capsys, "--config", "mobilellama_2_7b", "--gpus", "1", "--gpu", "l4").split()
    )
    assert "it does not fit, and no single change" in out
    assert "micro-batch none without gradient checkpointing, none with it" in out
