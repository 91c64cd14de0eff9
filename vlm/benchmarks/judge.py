"""What a benchmark's score is worth: its empty, cut and missing answers counted, and told."""

from collections.abc import Sequence
from dataclasses import replace

from mobilellama.pretrain.evaluation.answer_counts import AnswerCounts, says_nothing
from mobilellama.vlm.benchmarks.benchmark import Scores
from mobilellama.vlm.chat.question import Reply


def count_replies(replies: Sequence[Reply | None]) -> AnswerCounts:
    """Count the answers that are incomplete.

    missing          there is none
    without_room     the prompt filled the context
    empty            nothing was said: no character that can be seen, and no end token in letters
    cut_off          the most tokens, or the context's end, came before the answer's end
    """
    given = [one for one in replies if one is not None]
    silent = [one for one in given if says_nothing(one.text)]
    without_room = sum(one.finish == "too_long" for one in silent)
    # A file of other scripts tells nothing of this.
    told = all(one.finish is not None for one in given)
    cut_off = sum(one.finish == "length" for one in given) - sum(
        one.finish == "length" for one in silent
    )
    return AnswerCounts(
        asked=len(replies),
        bad={
            "missing": len(replies) - len(given),
            "without_room": without_room,
            "empty": len(silent) - without_room,
            "cut_off": cut_off if told or cut_off else None,
        },
    )


def judge(scores: Scores, counts: AnswerCounts, *, show_withheld: bool) -> Scores:
    """Return a score with its counts; marked or withheld where too many answers are incomplete."""
    scores = replace(scores, answers=counts.to_json())
    if not counts.marked:
        return scores
    scores = replace(scores, incomplete=str(counts))
    if not counts.withheld or show_withheld:
        return scores
    return replace(scores, score=None, tables={}, withheld=True)
