"""The tables of scores: what is marked, what is withheld, and what is beside them."""

from mobilellama.pretrain.evaluation.answer_counts import MARK, WITHHELD
from mobilellama.vlm.benchmarks.all import BENCHMARKS
from mobilellama.vlm.benchmarks.benchmark import Scores
from mobilellama.vlm.benchmarks.score_table import published_table, score_tables

SCORES = Scores(
    score=61.5, metric="accuracy, %", questions=12_578, unanswered=0,
    tables={"by type": {"choose": {"questions": 1_129, "accuracy": None}}},
)  # fmt: skip
ALL = {
    "gqa": 60.0,
    "scienceqa": 60.0,
    "textvqa": 60.0,
    "pope": 60.0,
    "mme": 1_200.0,
    "mmbench": 60.0,
}


def cells(table: str, model: str) -> dict[str, str]:
    """Return a model's row by benchmark, and its average."""
    (line,) = (line for line in table.splitlines() if line.startswith(model))
    row = line.removeprefix(model).split()
    return dict(zip([*BENCHMARKS, "average"], row, strict=True))


def test_a_benchmarks_groups_stand_below_its_score() -> None:
    first, blank, heading, row = score_tables("gqa", SCORES).splitlines()
    assert first == "GQA: 61.50 (accuracy, %; 12,578 questions)" and not blank
    assert heading.split() == ["by", "type", "questions", "accuracy"]
    assert row.split() == ["choose", "1,129", "-"]


def test_the_average_is_of_six_with_a_20th_of_mmes_points_and_beside_the_published() -> None:
    table = published_table(ALL, "ours", incomplete={}, withheld=())
    wanted = {**dict.fromkeys(ALL, "60.0"), "mme": "1200.0", "average": "60.0"}
    assert cells(table, "ours").items() >= wanted.items()
    assert cells(table, "MobileVLM V2 1.7B")["average"] == "64.2"
    assert cells(table, "LLaVA-1.5 7B")["average"] == "-"


def test_a_score_that_is_missing_leaves_no_average() -> None:
    table = published_table(ALL | {"pope": None}, "ours", incomplete={}, withheld=())
    row = cells(table, "ours")
    assert {name for name in (*ALL, "average") if row[name] == "-"} == {"pope", "average"}


def test_a_marked_score_marks_the_average_and_a_withheld_one_is_not_shown() -> None:
    why = {"gqa": "3 answers are cut off"}
    marked = published_table(ALL, "ours", incomplete=why, withheld=())
    assert [cells(marked, "ours")[name] for name in ("gqa", "average")] == [f"60.0{MARK}"] * 2
    assert marked.splitlines()[-1] == f"{MARK} GQA: 3 answers are cut off."
    withheld = published_table(ALL | {"gqa": None}, "ours", incomplete=why, withheld=["gqa"])
    assert cells(withheld, "ours")["gqa"] == WITHHELD.split()[0]
    assert withheld.splitlines()[-1].startswith(f"GQA is {WITHHELD}: 3 answers are cut off.")
