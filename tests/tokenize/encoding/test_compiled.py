import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilellama.tokenize.encoding.compiled import _compile, _load, load_kernel
from mobilellama.tokenize.encoding.kernel_file import read_or_make
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


# Stands in for the kernel, which takes 7 s to compile: it has its arguments, and does nothing.
_SMALL = """
from numba import njit
@njit
def encode(a, b, c, d, e, f, g, h, i, j, k, l):
    return 0, 0
"""


@pytest.fixture
def small_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return a function that gives the kernel of a new process: numba has compiled nothing."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "small_kernel.py"
    path.write_text(_SMALL)

    def new() -> Any:
        spec = importlib.util.spec_from_file_location("small_kernel", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.encode

    return new


def never() -> bytes:
    raise AssertionError("made again")


def test_code_that_was_compiled_once_is_loaded(
    small_kernel: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    content = read_or_make("kernel", lambda: _compile(small_kernel()))
    encode = small_kernel()
    _load(encode, "kernel", content)
    assert encode.stats.cache_hits and not encode.stats.cache_misses
    assert read_or_make("kernel", never) == content and not caplog.records


def with_other_data(content: bytes, _: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"no pickle" if name.endswith("nbc") else old.read(name))
    return packed.getvalue()


def of_another_source(content: bytes, source: Path) -> bytes:
    source.write_text(source.read_text() + "# a later version\n")
    return content


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (of_another_source, "it was made of another file or for another machine"),
        (with_other_data, "UnpicklingError"),
        (lambda *_: b"no archive", "BadZipFile"),
    ],
)
def test_code_that_numba_refuses_is_compiled_again_once_and_told(
    change: Callable[[bytes, Path], bytes],
    cause: str,
    small_kernel: Callable[[], Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = _compile(small_kernel())
    read_or_make("kernel", lambda: change(content, tmp_path / "small_kernel.py"))
    for refused in (True, False):
        caplog.clear()
        encode = small_kernel()
        _load(encode, "kernel", read_or_make("kernel", never))
        assert bool(encode.stats.cache_misses) is refused
        assert (f"numba refuses the compiled code in kernel ({cause}" in caplog.text) is refused


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
