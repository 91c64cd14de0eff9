import os
import subprocess
import sys
from pathlib import Path

import pytest

# What every test of the encoder checks by its ids, once more with each index checked. A write out
# of bounds may corrupt other memory without a sign.
_CHILD = """
import sys
from pathlib import Path
import numpy as np
from mobilellama.tokenize.encoding.fast_encoding import FastEncoding
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.tokenize.encoding.conftest import HOSTILE, normal_texts, random_texts

path = Path(sys.argv[1])
tokenizer = Tokenizer(path)
texts = HOSTILE + random_texts(normal_texts(path), 1_000, seed=11)
for memo_bytes in (1 << 14, 1 << 20):
    encoding = FastEncoding(tokenizer, memo_bytes)
    for batch in (texts, texts[::-1], [text for text in texts for _ in range(2)]):
        ids, lengths = encoding.encode(batch)
        expected = [i for text in batch for i in [*tokenizer.processor.encode(text), 2]]
        assert ids.tolist() == expected
# With its indices checked, the same code refuses room that is too small.
long_units = np.empty((0, 4), np.int64)
encoding._room = lambda bounds: (np.empty(1, np.int32), np.empty(1, np.int64), long_units)
try:
    encoding.encode(["some text"])
except IndexError:
    print("checked")
"""


@pytest.mark.slow
def test_no_index_is_out_of_bounds_over_random_texts(small_tokenizer: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, small_tokenizer],
        env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "checked\n"), done.stderr
