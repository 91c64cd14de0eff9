import io
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobilellama.shards.manifest_table import Cell, table_of

ROWS: list[Mapping[str, Cell]] = [
    {"subset": "c4", "bucket": 0, "source": "größe 汉字.jsonl", "tokens": 2**40, "only": 7},
    {"subset": "", "bucket": -1, "source": "b" * 70_000, "tokens": 0, "only": None},
    {"subset": "book", "bucket": 2, "source": None, "tokens": 1, "not in the first": 3},
]


def parquet_of(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS * 100, []])
def test_the_file_has_the_bytes_that_pyarrows_own_table_gives(
    rows: Sequence[Mapping[str, Cell]],
) -> None:
    mine, theirs = table_of(rows), pa.Table.from_pylist(rows)
    mine.validate(full=True)
    assert mine.schema == theirs.schema
    assert parquet_of(mine) == parquet_of(theirs)


@pytest.mark.parametrize("wrong", [1.5, True, [1], 3])
def test_a_value_that_no_manifest_holds_is_an_error(wrong: object) -> None:
    with pytest.raises(TypeError, match="a column of the manifest holds"):
        table_of([{"subset": "c4"}, {"subset": wrong}])  # pyright: ignore[reportArgumentType]


def test_a_table_is_made_without_pandas() -> None:
    code = (
        "import sys; from mobilellama.shards.manifest_table import table_of; "
        "table_of([{'subset': 'c4', 'bucket': 0}]); assert 'pyarrow' in sys.modules; "
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
