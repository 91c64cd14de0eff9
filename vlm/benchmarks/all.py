"""The six benchmarks of MobileVLM's tables, in the tables' order."""

from typing import Any

from mobilellama.vlm.benchmarks import gqa as bench_gqa
from mobilellama.vlm.benchmarks import mmbench as bench_mmbench
from mobilellama.vlm.benchmarks import mme as bench_mme
from mobilellama.vlm.benchmarks import pope as bench_pope
from mobilellama.vlm.benchmarks import scienceqa as bench_scienceqa
from mobilellama.vlm.benchmarks import textvqa as bench_textvqa
from mobilellama.vlm.benchmarks.benchmark import Benchmark

_SHORT, _LONG = 128, 1024  # tokens, in the original scripts

BENCHMARKS: dict[str, Benchmark[Any]] = {
    "gqa": Benchmark(
        title="GQA",
        files=bench_gqa.FILES,
        questions=bench_gqa.questions,
        score=bench_gqa.score,
        submission=bench_gqa.submission,
        max_new_tokens=_SHORT,
    ),
    "scienceqa": Benchmark(
        title="SQA-I",
        files=bench_scienceqa.FILES,
        questions=bench_scienceqa.questions,
        score=bench_scienceqa.score,
        max_new_tokens=_LONG,
        aspect_ratio="square",  # MobileVLM's script passes the setting by; LLaVA's does not
    ),
    "textvqa": Benchmark(
        title="VQA-T",
        files=bench_textvqa.FILES,
        questions=bench_textvqa.questions,
        score=bench_textvqa.score,
        max_new_tokens=_SHORT,
    ),
    "pope": Benchmark(
        title="POPE",
        files=bench_pope.FILES,
        questions=bench_pope.questions,
        score=bench_pope.score,
        max_new_tokens=_SHORT,
    ),
    "mme": Benchmark(
        title="MME-P",
        files=bench_mme.FILES,
        questions=bench_mme.questions,
        score=bench_mme.score,
        submission=bench_mme.submission,
        max_new_tokens=_SHORT,
    ),
    "mmbench": Benchmark(
        title="MMB-dev",
        files=bench_mmbench.FILES,
        questions=bench_mmbench.questions,
        score=bench_mmbench.score,
        submission=bench_mmbench.submission,
        max_new_tokens=_LONG,
    ),
}
