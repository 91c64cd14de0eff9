"""The benchmarks, by name: the six of MobileVLM's tables, in the tables' order.

Commands, tables and ``--tasks all`` read this list, in its order. To add one, write its file beside
this one and add its entry here.
"""

from typing import Any

from mobilellama.vlm.benchmarks import gqa, mmbench, mme, pope, scienceqa, textvqa
from mobilellama.vlm.benchmarks.benchmark import Benchmark

_SHORT, _LONG = 128, 1024  # tokens, in the original scripts

BENCHMARKS: dict[str, Benchmark[Any]] = {
    "gqa": Benchmark(
        title="GQA",
        files=gqa.FILES,
        questions=gqa.questions,
        score=gqa.score,
        submission=gqa.submission,
        max_new_tokens=_SHORT,
    ),
    "scienceqa": Benchmark(
        title="SQA-I",
        files=scienceqa.FILES,
        questions=scienceqa.questions,
        score=scienceqa.score,
        max_new_tokens=_LONG,
        aspect_ratio="square",  # MobileVLM's script passes the setting by; LLaVA's does not
    ),
    "textvqa": Benchmark(
        title="VQA-T",
        files=textvqa.FILES,
        questions=textvqa.questions,
        score=textvqa.score,
        max_new_tokens=_SHORT,
    ),
    "pope": Benchmark(
        title="POPE",
        files=pope.FILES,
        questions=pope.questions,
        score=pope.score,
        max_new_tokens=_SHORT,
    ),
    "mme": Benchmark(
        title="MME-P",
        files=mme.FILES,
        questions=mme.questions,
        score=mme.score,
        submission=mme.submission,
        max_new_tokens=_SHORT,
    ),
    "mmbench": Benchmark(
        title="MMB-dev",
        files=mmbench.FILES,
        questions=mmbench.questions,
        score=mmbench.score,
        submission=mmbench.submission,
        max_new_tokens=_LONG,
    ),
}
