import pytest

from mobilellama.tokenize.planning.amounts import Amount
from mobilellama.tokenize.planning.outlook import look_ahead
from mobilellama.tokenize.planning.rates import Rates
from mobilellama.tokenize.planning.shown import Forecast, shown


def test_the_table_fits_80_columns_and_holds_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    size = 1_338 * 10**9
    outlook = look_ahead(
        {"common_crawl": Amount(sources=859, slices=859, size=size, largest=2 * 10**9)},
        {"common_crawl": Rates(text=2.8, tokens=0.65, documents=0.001, basis="published")},
        token_bytes=2,
        workers=16,
        task_count=54,
        mb_per_s=27,
        output=None,
    )
    note = "a remark of many words " * 6
    text = shown(Forecast(outlook=outlook, array="an array", remarks=[note]))
    assert max(map(len, text.splitlines())) <= 80
    row = text.splitlines()[1].split("  ")
    assert [cell.strip() for cell in row if cell.strip()] == [
        "common_crawl", "859", "1.3 TB", "859", "2.80", "869.70 B", "1.8 TB", "38.54",
    ]  # fmt: skip
    assert "array an array" in text
    assert " ".join(note.split()) in " ".join(text.split())
