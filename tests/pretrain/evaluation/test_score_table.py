"""The table of scores: what is compared with the published ones, marked and left out."""

from mobilellama.pretrain.evaluation.published_scores import PUBLISHED
from mobilellama.pretrain.evaluation.results import withhold
from mobilellama.pretrain.evaluation.score_table import mean_of_comparable, score_table
from tests.pretrain.helpers.scores import result_of


def test_the_published_averages_are_the_means_of_the_published_columns() -> None:
    full = {
        name: result_of(0.5, shots=score.shots, leaves=57 if name == "mmlu" else 0)
        for name, score in PUBLISHED.items()
    }
    mean = mean_of_comparable(full)
    assert mean and mean["tasks"] == list(PUBLISHED) and mean["score"] == 0.5
    assert round(mean["mobilellama_1_4b"], 4) == 0.4490  # as the paper prints them
    assert round(mean["mobilellama_2_7b"], 4) == 0.4923


def test_the_table_compares_only_what_was_measured_alike() -> None:
    tasks = {
        "arc_easy": result_of(0.6),
        "boolq": result_of(0.5),
        "piqa": result_of(0.7, shots=3, prompts_cut=4),
        "mmlu": result_of(0.3, shots=5, leaves=56),
        "lambada_openai": result_of(0.4),
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
        "Only the first 100 questions of each task (--limit): not a measurement.",
        "Not compared: piqa (the published score is of 0 shots), mmlu (56 of 57 subjects).",
        "* piqa: 4 of 200 answers are incomplete, 2.00 % (4 prompts cut).",
    ]
    assert "mean" not in score_table({"piqa": result_of(0.7)}, "m", limit=None)


def test_a_result_without_an_accuracy_is_not_compared() -> None:
    odd = result_of(0.7)
    odd["metrics"] = {"acc": None}
    tasks = {"arc_easy": result_of(0.6), "boolq": result_of(0.5), "piqa": odd}
    mean = mean_of_comparable(tasks)
    assert mean and mean["tasks"] == ["arc_easy", "boolq"] and mean["score"] == 0.55
    assert "Not compared: piqa (it has no accuracy)." in score_table(tasks, "m", limit=None)


def test_too_many_incomplete_answers_withhold_a_score_and_few_mark_it() -> None:
    """Of 200 requests 20 are ten per cent, and 21 are more."""
    stored = {
        "arc_easy": result_of(0.6, empty=20),
        "boolq": result_of(0.5, empty=1),
        "piqa": result_of(0.75, not_a_number=21),
        "rte": result_of(0.5),
    }
    tasks = {name: withhold(its, show=False) for name, its in stored.items()}
    assert tasks["piqa"]["metrics"] == {"acc": None, "acc_stderr": None}
    why = "21 of 200 answers are incomplete, 10.50 % (21 not a number)"
    withheld = tasks["piqa"].get("withheld")
    assert withheld and withheld["reason"] == why
    assert tasks["boolq"].get("withheld", "absent") is None
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
        "Not a measurement: the numbers of questions differ: arc_easy 100 of 2,376, boolq 100 of "
        "3,270, piqa 100 of 1,838, rte 100 of 277."
    )
    assert first == "Not compared: piqa (withheld)."
    assert second == "* arc_easy: 20 of 200 answers are incomplete, 10.00 % (20 empty)."
    assert third == "boolq: 1 of 200 answers are incomplete, 0.50 % (1 empty)."
    assert fourth == f"piqa is withheld: {why}. --show_withheld shows it anyway."
    # Nothing is lost: asked for, the score is back, with its mark.
    shown = withhold(tasks["piqa"], show=True)
    assert shown["metrics"] == stored["piqa"]["metrics"] and shown.get("withheld", "absent") is None
    assert "0.7500*" in score_table({"piqa": shown}, "m", limit=None)
    assert withhold(shown, show=False) == tasks["piqa"] == withhold(tasks["piqa"], show=False)
