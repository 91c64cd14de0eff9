r"""Score a model on GQA, ScienceQA, TextVQA, POPE, MME and MMBench, beside the published scores.

    mobilellama vlm evaluate MODEL --tasks all --data DIR --output RESULTS
    mobilellama vlm evaluate --tasks gqa,pope ...
    mobilellama vlm evaluate NAME --tasks gqa --data DIR --answers FILE --output RESULTS

The command asks each question as the original scripts of MobileVLM and LLaVA-1.5 do, answers it
greedily, and scores it by the original's rules with all their quirks. DIR holds a folder for each
benchmark, in the layout of LLaVA's docs/Evaluation.md (playground/data/eval) or MobileVLM's README
(data/benchmark_data):

    gqa        gqa/llava_gqa_testdev_balanced.jsonl   LLaVA's questions (eval.zip)
               gqa/testdev_balanced_questions.json    GQA's; or in gqa/data/
               gqa/images/                            or gqa/data/images/
    scienceqa  scienceqa/llava_test_CQM-A.json        LLaVA's; or all of it in sqa/
               scienceqa/problems.json, pid_splits.json
               scienceqa/images/test/
    textvqa    textvqa/llava_textvqa_val_v051_ocr.jsonl
               textvqa/TextVQA_0.5.1_val.json
               textvqa/train_images/
    pope       pope/llava_pope_test.jsonl
               pope/coco/coco_pope_{adversarial,popular,random}.json
               pope/val2014/                          COCO's images
    mme        MME/llava_mme.jsonl                    or in mme/
               MME/MME_Benchmark_release_version/     or mme/images/
    mmbench    mmbench/mmbench_dev_en_20231003.tsv    or mmbench_dev_20230712.tsv

RESULTS is a folder. If it exists, the command continues it:

    BENCHMARK.jsonl   the answers, as LLaVA's scorers read them; an interrupted or killed call
                      continues after the last
    scores.json       all scores, and their average once all six are there
    submissions/      what the originals' converters make: GQA's predictions, MME's text files,
                      MMBench's table (as .tsv: for its server, save it as .xlsx)

The published numbers are GQA's accuracy, ScienceQA's accuracy of questions with an image, TextVQA's
soft accuracy, POPE's mean F1, MME's points of perception, and MMBench's accuracy over all rotations
of the options. The average counts MME's points divided by 20. The original MMBench asks ChatGPT
what an unclear answer chooses; here it chooses nothing. The published scores are of fp16. Scores on
a GPU here are too, unless --dtype says otherwise. docs/vision_language.md lists what differs from
the originals.

Empty answers, answers that were cut off, and missing ones are counted for each benchmark, in its
table and in scores.json. If they are over 1 %, the score is marked with * and a line below the
table says why. If they are over 10 %, it is withheld (null in scores.json), unless --show_withheld
asks for it. For example, if a model answers nothing, POPE's rule counts each answer as yes, and the
score is 66.67.

--answers scores answers that were made elsewhere: a file as LLaVA's scripts write it, or a folder
of gqa.jsonl and so on. The command then reads no images. Their folders must exist, but can be
empty. A question without an answer counts as wrong.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mobilellama import log as logs
from mobilellama.files.atomic import sha256_of_file, sha256_of_json, whole_file
from mobilellama.files.hub_folder import MODEL, find_model
from mobilellama.pretrain.evaluation.answer_counts import END_TOKEN
from mobilellama.pretrain.generation.loading import quieten
from mobilellama.pretrain.hf.device import find_device
from mobilellama.pretrain.stop import StopRequest
from mobilellama.progress import Progress
from mobilellama.sft.chat.answers import Answers
from mobilellama.vlm.benchmarks.answer_files import find_answers, read_answers
from mobilellama.vlm.benchmarks.benchmark import Asked, field
from mobilellama.vlm.benchmarks.judge import count_replies, judge
from mobilellama.vlm.benchmarks.plan import (
    IMAGES,
    BenchmarkPlan,
    Config,
    Dtype,
    describe,
    make_plans,
    odd_number,
)
from mobilellama.vlm.benchmarks.score_table import published_table, score_tables
from mobilellama.vlm.benchmarks.scores_file import ScoresFile
from mobilellama.vlm.chat.question import Question, QuestionAnswerer, Reply
from mobilellama.vlm.data.images import read_image

log = logging.getLogger(__name__)

SCORES_FILE = "scores.json"
SUBMISSIONS = "submissions"


def main(config: Config) -> int:
    """Ask, score, print."""
    if config.answers is not None:
        logs.configure()
        return score_answers(config, config.answers)
    from mobilellama.vlm.chat.assistant import load_stored, settings_of
    from mobilellama.vlm.formats.stored_model import open_model

    logs.configure()
    quieten()
    dtype = dtype_as_published(config.dtype, find_device(config.device).type)
    config = replace(config, dtype=dtype)
    found = find_model(config.model, field="model")
    with found.errors_by_name():
        here = replace(config, model=found.path)
        stored = open_model(
            here.model, template=here.template, tokenizer_as_is=here.tokenizer_as_is
        )
        settings = settings_of(here, stored) | found.note
        return evaluate(config, settings, lambda: load_stored(stored, here))


def dtype_as_published(dtype: Dtype, device: str) -> Dtype:
    """Return the dtype that a score is made in: of "auto" on a GPU, that of the published.

    Args:
        dtype: the user's choice.
        device: the kind, as torch names it.
    """
    return "fp16" if dtype == "auto" and device == "cuda" else dtype


def evaluate(
    config: Config, model: Mapping[str, object], load: Callable[[], QuestionAnswerer]
) -> int:
    """Score a model on each benchmark.

    Args:
        config: what is asked, and how.
        model: what the answers depend on of the model: its sha256, its dtype; and its name and
            commit, if it is from the Hub.
        load: gives it; called where answers are missing.
    """
    plans = make_plans(config)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    scores_file = ScoresFile(
        folder / SCORES_FILE,
        model=str(model.get(MODEL, config.model)),
        model_sha256=str(model["model_sha256"]),
        overwrite=config.overwrite,
    )
    stop, assistant = StopRequest(), _Once(load)
    with stop.handling_signals():
        for plan in plans:
            settings = describe(plan, model)
            answers: Sequence[Reply] = answer(plan, config, settings, assistant, stop)
            if len(answers) < len(plan.asked[: config.limit]):
                log.warning("stopped by %s; the same command goes on", stop.reason)
                return 130
            score(plan, config, answers, settings, scores_file)
    print_all(config, scores_file, plans)
    return 0


def score_answers(config: Config, given: str) -> int:
    """Score answers that were made elsewhere."""
    files = find_answers(given, config.names)
    plans = make_plans(config)
    answers = {plan.name: read_answers(files[plan.name], plan.asked) for plan in plans}
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    scores_file = ScoresFile(
        folder / SCORES_FILE,
        model=config.model,
        model_sha256=sha256_of_json({"answers of": config.model}),
        overwrite=config.overwrite,
    )
    for plan in plans:
        file = files[plan.name]
        settings = {"answers": str(file), "answers_sha256": sha256_of_file(file)}
        score(plan, config, answers[plan.name][: config.limit], settings, scores_file)
    print_all(config, scores_file, plans)
    return 0


def score(
    plan: BenchmarkPlan,
    config: Config,
    replies: Sequence[Reply | None],
    settings: Mapping[str, object],
    scores_file: ScoresFile,
) -> None:
    """Score a benchmark's answers; keep and print what they are worth."""
    asked = plan.asked[: config.limit]
    answers = [None if one is None else one.text for one in replies]
    counts = count_replies(replies)
    scores = plan.benchmark.score(asked, answers)
    scores = judge(scores, counts, show_withheld=config.show_withheld)
    if counts.total:
        log.warning("%s: %s", plan.name, counts)
    if odd := odd_number(plan, config):
        note = f"Not comparable with the published scores: {odd}."
        log.warning("%s of %s: %s; check the files below --data", plan.name, config.data, odd)
        scores = replace(scores, notes=(*scores.notes, note))
    scores_file.add(plan.name, scores, {**settings, "limit": config.limit})
    if config.limit is None and plan.benchmark.submission:
        folder = Path(config.output) / SUBMISSIONS / plan.name
        write_submission(folder, plan.benchmark.submission(asked, answers))
    print(score_tables(plan.name, scores), end="\n\n\n")


def print_all(config: Config, scores_file: ScoresFile, plans: Sequence[BenchmarkPlan]) -> None:
    """Print the model's scores above the published ones."""
    for plan in plans:
        if odd := odd_number(plan, config):
            print(f"{plan.benchmark.title} is of {odd}: not a measurement.")
    if config.limit is not None:
        print(f"Only the first {config.limit} questions of each (--limit): not a measurement.")
    name = Path(config.model).name
    incomplete, withheld = scores_file.incomplete(), scores_file.withheld()
    scores = scores_file.scores()
    print(published_table(scores, name, incomplete=incomplete, withheld=withheld))
    print(f"written to {config.output}")


class _Once:
    """Loads the assistant when it is first asked for."""

    def __init__(self, load: Callable[[], QuestionAnswerer]) -> None:
        self._load, self._loaded = load, None

    def __call__(self) -> QuestionAnswerer:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded


def answer(
    plan: BenchmarkPlan,
    config: Config,
    settings: Mapping[str, object],
    assistant: Callable[[], QuestionAnswerer],
    stop: StopRequest,
) -> list[Reply]:
    """Ask what has no answer yet, up to the limit; return the answers, fewer if stopped."""
    path = Path(config.output) / f"{plan.name}.jsonl"
    with Answers(path, settings, overwrite=config.overwrite, later=(IMAGES,)) as answers:
        done = answers.keep([_row(one) for one in plan.asked], added=("text",))[: config.limit]
        left = plan.asked[len(done) : config.limit]
        if done:
            total = len(done) + len(left)
            log.info("%s has %s answers already", path, f"{len(done):,} of {total:,}")
        if left:
            model = assistant()
            with Progress(plan.name, total=len(left), unit="questions") as progress:
                for rows in answer_rows(left, plan, config, model, stop):
                    answers.write(rows)
                    done += rows
                    progress.advance(len(rows))
    return [_reply(path, row) for row in done]


def answer_rows(
    left: Sequence[Asked[object]],
    plan: BenchmarkPlan,
    config: Config,
    model: QuestionAnswerer,
    stop: StopRequest,
) -> Iterator[list[dict[str, object]]]:
    """Yield the output rows of each batch; end early if asked to."""
    for start in range(0, len(left), config.batch_size):
        if stop.requested():
            return
        batch = left[start : start + config.batch_size]
        replies = model.answer_batch(
            [as_question(one) for one in batch],
            max_new_tokens=plan.max_new_tokens,
            aspect_ratio=plan.aspect_ratio,
        )
        assert len(replies) == len(batch)
        name = Path(config.model).name
        yield [
            _row(one)
            | {
                "text": as_the_original_logs_it(reply.text),
                "model_id": name,
                "finish": reply.finish,
            }
            for one, reply in zip(batch, replies, strict=True)
        ]


def _row(one: Asked[object]) -> dict[str, object]:
    return {"question_id": one.id, "prompt": one.prompt}


def _reply(path: Path, row: Mapping[str, object]) -> Reply:
    """Return the answer of an output row; DataError where it is none."""
    finish = row.get("finish")
    text = field(str(path), row, "text", str)
    return Reply(text=text, finish=finish if isinstance(finish, str) else None)


def as_question(one: Asked[object]) -> Question:
    """Return what the assistant is asked; an image that lies in the questions' file is decoded.

    Raises:
        ImageError: it is none, or damaged.
    """
    images = tuple(
        image if isinstance(image, Path) else read_image(image, name=f"question {one.id}'s image")
        for image in one.images
    )
    return Question(images=images, text=one.text)


def as_the_original_logs_it(text: str) -> str:
    """Return an answer without white space around it, nor a spelt-out end token."""
    return text.strip().removesuffix(END_TOKEN).strip()


def write_submission(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files that a benchmark's own scorer or server takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with whole_file(folder / name) as file:
            file.write(content)
