import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellama.tokenize.encoding.compiled import load_kernel
from mobilellama.tokenizers.tokenizer import Tokenizer

ROOT = Path(__file__).parents[3]
# Prints the ids of a text, and whether numba compiled or read its cache.
_CHILD = """
import sys
from mobilellama.tokenize.encoding.encoder import Encoder
from mobilellama.tokenize.encoding.compiled import load_kernel
from mobilellama.tokenizers.tokenizer import Tokenizer
ids, _ = Encoder(Tokenizer(sys.argv[1])).encode_batch(["some text"])
assert "scipy.linalg" not in sys.modules
import scipy.linalg
print(len(load_kernel().stats.cache_hits), *ids.tolist())
"""


def start(tokenizer: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, tokenizer],
        cwd=ROOT, env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def hits_of(child: subprocess.Popen[str], ids: list[int]) -> int:
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    hits, *found = map(int, out.split())
    assert found == ids
    return hits


def test_the_kernel_is_loaded_once_a_process() -> None:
    assert load_kernel() is load_kernel()


@pytest.mark.slow
def test_two_versions_that_start_at_once_compile_once_each_and_need_no_place_in_the_home(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    """The home is a file, the package's folder gets nothing, and another setting stands in for
    another version: it too decides the code, and so has a file of its own.
    """
    ids = [*Tokenizer(small_tokenizer).encode("some text", begins=True), 2]
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.write_bytes(b"")
    temporary.mkdir()
    places = {
        "HOME": str(home),
        "XDG_CACHE_HOME": "",
        "NUMBA_CACHE_DIR": "",
        "TMPDIR": str(temporary),
    }
    children = [
        start(small_tokenizer, **places, NUMBA_OPT=level) for level in ("1", "3") for _ in range(2)
    ]
    assert sorted(hits_of(child, ids) for child in children) == [0, 0, 1, 1]
    (cache,) = temporary.iterdir()  # numba's own folders are gone
    assert len([*cache.glob("kernel-*.bin")]) == 2
    assert not [*ROOT.glob("tokenize/encoding/__pycache__/*.nb?")]
    for path in cache.glob("kernel-*.bin"):
        path.write_bytes(path.read_bytes()[:-100])
    assert hits_of(start(small_tokenizer, **places, NUMBA_OPT="1"), ids) == 0
    assert hits_of(start(small_tokenizer, **places, NUMBA_OPT="1"), ids) == 1
