import io
import struct
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import DataError
from mobilellama.shards.format import dtype_for_vocabulary, index_bytes, read_index, write_index


def index_of(lengths: list[int], dtype: str = "uint16") -> bytes:
    file = io.BytesIO()
    write_index(file, np.array(lengths, dtype=np.int64), dtype)
    return file.getvalue()


def test_the_index_is_megatron_s_byte_for_byte() -> None:
    """Documents of 3, 1 and 2 ids of two bytes; every field little endian."""
    expected = (
        b"MMIDIDX\x00\x00"
        + struct.pack("<Q", 1)  # version
        + struct.pack("<B", 8)  # uint16
        + struct.pack("<Q", 3)  # sequences
        + struct.pack("<Q", 4)  # document indices
        + struct.pack("<3i", 3, 1, 2)
        + struct.pack("<3q", 0, 6, 8)
        + struct.pack("<4q", 0, 1, 2, 3)
    )
    assert index_of([3, 1, 2]) == expected
    assert index_bytes(3) == len(expected)


def test_large_vocabularies_take_int32() -> None:
    assert (dtype_for_vocabulary(65_500), dtype_for_vocabulary(65_501)) == ("uint16", "int32")
    assert index_of([3, 1, 2], "int32")[17] == 4
    assert struct.unpack_from("<3q", index_of([3, 1, 2], "int32"), 34 + 12) == (0, 12, 16)


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_every_token_is_found_in_its_document(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "00000.idx"
    path.write_bytes(index_of([3, 1, 2], dtype))
    index = read_index(path)
    assert [index.sequence_at(token) for token in range(6)] == [0, 0, 0, 1, 2, 2]
    assert [index.span(document) for document in range(3)] == [(0, 3), (3, 1), (4, 2)]
    assert index.starts.tolist() == [0, 3, 4] and index.lengths.tolist() == [3, 1, 2]


def test_a_bucket_without_documents_has_an_index(tmp_path: Path) -> None:
    path = tmp_path / "00000.idx"
    path.write_bytes(index_of([]))
    assert len(read_index(path).lengths) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing"),
        (b"", "not an index file (its first bytes are b'')"),
        (b"MMIDIDX\x00\x01" + index_of([1])[9:], "not an index file"),
        (index_of([1, 2])[:-1], "81 bytes; expected version 1, a code in [4, 8], 82 bytes"),
        (index_of([1])[:9] + b"\x02" + index_of([1])[10:], "version 2, dtype code 8"),
        (index_of([1])[:17] + b"\x07" + index_of([1])[18:], "version 1, dtype code 7"),
    ],
    ids=["missing", "empty", "magic", "truncated", "version", "dtype"],
)
def test_what_is_no_index_is_explained(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "00000.idx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_index(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_a_document_may_hold_several_sequences(tmp_path: Path) -> None:
    path = tmp_path / "rows.idx"
    with open(path, "wb") as file:
        write_index(file, np.array([3, 1, 2, 5]), "uint16", np.array([0, 2, 3, 4]))
    assert path.stat().st_size == index_bytes(4, 3)
    index = read_index(path)
    assert index.documents.tolist() == [0, 2, 3, 4]
    assert index.lengths.tolist() == [3, 1, 2, 5]
    assert index.starts.tolist() == [0, 3, 4, 6]
