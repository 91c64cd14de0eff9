"""Make the manifest's Arrow table from rows of texts and whole numbers.

``pyarrow.Table.from_pylist`` gives the same table, but imports pandas wherever it is installed.
That takes 0.3 s of CPU time, more than the rest of a small run's last step.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

Cell = str | int | None


def table_of(rows: Sequence[Mapping[str, Cell]]) -> "pa.Table":
    """Return a table with the columns of the first row, in its order.

    A value that a later row does not have is null.

    Raises:
        TypeError: a column holds both texts and numbers, or something else.
    """
    import pyarrow as pa

    names = list(rows[0]) if rows else []
    columns = [_column([row.get(name) for row in rows]) for name in names]
    return pa.Table.from_arrays(columns, names=names)


def _column(values: Sequence[Cell]) -> "pa.Array":
    import pyarrow as pa

    is_there = np.array([value is not None for value in values])
    validity = None if is_there.all() else pa.py_buffer(np.packbits(is_there, bitorder="little"))
    kinds = {type(value) for value in values if value is not None}
    if kinds == {str}:
        texts = [str(value or "").encode() for value in values]
        ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
        buffers = [validity, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(pa.string(), len(values), buffers)
    if kinds == {int}:
        numbers = np.array([value or 0 for value in values], np.int64)
        buffers = [validity, pa.py_buffer(numbers)]
        return pa.Array.from_buffers(pa.int64(), len(values), buffers)
    raise TypeError(f"a column of the manifest holds {sorted(kind.__name__ for kind in kinds)}")
