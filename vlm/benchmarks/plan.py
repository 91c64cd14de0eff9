"""What 'vlm evaluate' is asked to do, and each benchmark's questions before any model is loaded."""

import os.path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from mobilellama.config import ConfigError, did_you_mean, require_at_least
from mobilellama.files.atomic import sha256_of_json
from mobilellama.progress import format_count
from mobilellama.vlm.benchmarks.all import BENCHMARKS
from mobilellama.vlm.benchmarks.benchmark import Asked, Benchmark, require_files
from mobilellama.vlm.chat.assistant_choice import AssistantChoice
from mobilellama.vlm.data.images import show_name

Dtype = Literal["auto", "bf16", "fp16", "fp32"]
ALL = "all"
IMAGES = "images_sha256"
"""Where the file of answers keeps what tells its images from others."""
PUBLISHED_QUESTIONS = {"gqa": 12_578, "scienceqa": 4_241, "textvqa": 5_000}
"""In the question files of LLaVA's docs/Evaluation.md: testdev_balanced, test, and val."""
_SHOWN_IMAGES = 3


@dataclass(frozen=True, kw_only=True)
class Config(AssistantChoice):
    """Fields of 'vlm evaluate'."""

    tasks: list[str]
    """gqa, scienceqa, textvqa, pope, mme, mmbench; or all."""
    dtype: Dtype = "auto"
    """Dtype of the weights. auto: on GPUs fp16, as for the published scores; on CPUs as stored,
    with fp16 as fp32."""
    data: str
    """Folder that holds a folder for each benchmark."""
    output: str
    """Folder for answers and scores. An existing one is continued."""
    aspect_ratio: Literal["original", "model", "square", "pad"] = "original"
    """How images become square. model: as the model was trained (pad, after stage 2). original:
    the same, but for ScienceQA the centre (square), which MobileVLM's script takes."""
    batch_size: int = 8
    """Number of questions to answer together. It changes the speed, not the answers."""
    max_new_tokens: int | None = None
    """The most tokens of an answer. null: 1024 for ScienceQA and MMBench, else 128."""
    limit: int | None = None
    """Ask only so many first questions of each benchmark. None: all. For trials only."""
    overwrite: bool = False
    """Start again, and replace the answers in the output folder."""
    show_withheld: bool = False
    """Show a score although over 10 % of its answers are empty, cut off or missing."""
    answers: str | None = None
    """Score these answers and do not ask the model: a .jsonl file, or a folder of BENCHMARK.jsonl.
    MODEL is then only their name. null: ask the model."""

    def __post_init__(self) -> None:
        if self.answers is None:
            super().__post_init__()
        names = self.names
        for name in names:
            if name not in BENCHMARKS:
                rule = f"'{name}' must be one of {', '.join(BENCHMARKS)}, or all"
                remedy = f"Fix the name{did_you_mean(name, [*BENCHMARKS, ALL])}"
                raise ConfigError("tasks", ",".join(self.tasks), rule, remedy)
        if not names or len(set(names)) < len(names):
            rule = "must name each benchmark once"
            raise ConfigError("tasks", ",".join(self.tasks) or "(empty)", rule, "Fix the list")
        require_at_least("batch_size", self.batch_size, 1)
        for field in ("max_new_tokens", "limit"):
            if (value := getattr(self, field)) is not None:
                require_at_least(field, value, 1)
        if Path(self.output).exists() and not Path(self.output).is_dir():
            raise ConfigError("output", self.output, "is not a folder", "Give a folder")

    @property
    def names(self) -> list[str]:
        """The benchmarks, in the order in which they are run."""
        return list(BENCHMARKS) if self.tasks == [ALL] else self.tasks


@dataclass(frozen=True, kw_only=True)
class BenchmarkPlan:
    """One benchmark's questions, and how they are asked."""

    name: str
    benchmark: Benchmark[object]
    asked: list[Asked[object]]
    """All of them, whatever the limit."""
    max_new_tokens: int
    aspect_ratio: Literal["square", "pad"] | None


def make_plans(config: Config) -> list[BenchmarkPlan]:
    """Read the questions of every benchmark, before any model is loaded.

    Raises:
        ConfigError: files or images are missing.
        DataError: a file is damaged.
    """
    data = Path(config.data)
    chosen = {name: BENCHMARKS[name] for name in config.names}
    require_files(data, [benchmark.files for benchmark in chosen.values()])
    plans = []
    for name, benchmark in chosen.items():
        asked = benchmark.questions(data)
        if config.answers is None:
            require_images(data, asked[: config.limit])
        plans.append(
            BenchmarkPlan(
                name=name,
                benchmark=benchmark,
                asked=asked,
                max_new_tokens=config.max_new_tokens or benchmark.max_new_tokens,
                aspect_ratio=_aspect_ratio(config, benchmark),
            )
        )
    return plans


def _aspect_ratio(config: Config, benchmark: Benchmark[object]) -> Literal["square", "pad"] | None:
    if config.aspect_ratio == "original":
        return benchmark.aspect_ratio
    return None if config.aspect_ratio == "model" else config.aspect_ratio


def require_images(data: Path, asked: Sequence[Asked[object]]) -> None:
    """Raise ConfigError unless every image file is there; count those that are not."""
    paths = dict.fromkeys(image for one in asked for image in one.images if isinstance(image, Path))
    # Unlike Path's, os.path's takes a name that the system refuses for one that is not there.
    if missing := [show_name(str(path)) for path in paths if not os.path.isfile(path)]:
        some = ", ".join(missing[:_SHOWN_IMAGES])
        more = ", ..." if len(missing) > _SHOWN_IMAGES else ""
        rule = f"lacks {len(missing):,} of {format_count(len(paths), 'image')} ({some}{more})"
        raise ConfigError("data", str(data), rule, "Unpack the images there")


def odd_number(plan: BenchmarkPlan, config: Config) -> str | None:
    """Return how many questions there are, where the published benchmark has more or fewer."""
    published = PUBLISHED_QUESTIONS.get(plan.name, len(plan.asked))
    if config.limit is not None or len(plan.asked) == published:
        return None
    here = format_count(len(plan.asked), "question")
    return f"{here}, but the published benchmark has {published:,}"


def describe(plan: BenchmarkPlan, model: Mapping[str, object]) -> dict[str, object]:
    """Return what the answers depend on beside the questions, as it is kept beside them."""
    return {
        "benchmark": plan.name,
        **model,
        IMAGES: sha256_of_json([*map(image_names, plan.asked)]),
        "aspect_ratio": plan.aspect_ratio or "model",
        "max_new_tokens": plan.max_new_tokens,
    }


def image_names(one: Asked[object]) -> list[str]:
    """Return what tells a question's images from others, wherever their folder lies."""
    return [
        image.name if isinstance(image, Path) else sha256(image).hexdigest() for image in one.images
    ]
