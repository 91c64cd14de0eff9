"""What is counted of a slice, and when it holds too much that is bad."""

from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.tokenize.sources.counts import Counts
from tests.tokenize.conftest import corpus, read


def test_places_are_kept_up_to_a_bound_and_counted_on(tmp_path: Path) -> None:
    _, (counts,) = read(corpus(tmp_path, b"x\n" * 10_050))
    assert counts.bad_records == 10_050
    assert len(counts.bad_places) == 10_000


@pytest.mark.parametrize(
    ("records", "bad", "share", "passes"),
    [
        (20, 10, 0.001, True),  # never fewer than 10
        (20, 11, 0.001, False),
        (11_000, 11, 0.001, True),  # exactly the share
        (10_999, 11, 0.001, False),
        (20_000, 11, 0.0, False),
    ],
)
def test_a_slice_fails_above_its_share_of_bad_records(
    records: int, bad: int, share: float, passes: bool
) -> None:
    counts = Counts(records=records, bad_records=bad, bad_places=[[7, "no 'text'"]] * bad)
    if passes:
        counts.require_few_bad("c4/a.jsonl", share)
        return
    with pytest.raises(DataError) as error:
        counts.require_few_bad("c4/a.jsonl", share)
    message = str(error.value)
    assert message.startswith(f"c4/a.jsonl: {bad} of {records:,} records are bad, more than the")
    assert message.count("at 7: no 'text'") == 3  # the first few
