"""Load the kernel (kernel.py), compiled for this machine.

numba has a cache of its own. It is not enough here: it stops with a traceback at a truncated file,
and where neither the package nor the home may be written to; two versions of numba with one home
overwrite each other's files; machines of two kinds that start at once may read each other's code.
So numba writes its cache into a new folder, and kernel_file.py keeps that as one file with a
digest, whose name holds a hash of all that decides the code. numba reads its copy in a new folder.
"""

import contextlib
import hashlib
import io
import logging
import os
import platform
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mobilellama.tokenize.encoding.kernel_file import read_or_make, store
from mobilellama.tokenize.encoding.memo import LONGEST_UNIT_BYTES, make_memo
from mobilellama.tokenize.encoding.merges import Merges

log = logging.getLogger(__name__)

Kernel = Callable[..., tuple[int, int]]

_SCIPY = "scipy.linalg"
_NO_MATTER = {"NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS"}  # to the compiled code
# What is compiled, the constants in it, and the types that it is compiled for.
_SOURCES = ("kernel.py", "memo.py", "merges.py", "compiled.py")


@lru_cache(maxsize=1)
def load_kernel() -> Kernel:
    """Return ``kernel.encode``, compiled. The first call takes 0.4 s, or 7 s without a file."""
    from mobilellama.tokenize.encoding.kernel import encode

    name = f"kernel-{_key()}.bin"
    is_compiled = False

    def compile_it() -> bytes:
        nonlocal is_compiled
        is_compiled = True
        return _compile(encode)

    content = read_or_make(name, compile_it)
    if not is_compiled:
        _load(encode, name, content)
    return encode


def _load(encode: Kernel, name: str, content: bytes) -> None:
    """Let numba load `content`. If it refuses, compile, and store what it made instead."""
    cause = "it was made of another file or for another machine"
    try:
        made = _compile(encode, content)
    except Exception as error:  # pickle raises any error, and so does a bad archive
        cause = f"{type(error).__name__}: {error}"
        made = _compile(encode)
    if not encode.stats.cache_hits:  # pyright: ignore[reportFunctionMemberAccess]
        log.warning("numba refuses the compiled code in %s (%s): compiled again", name, cause)
        store(name, made)


def _key() -> str:
    """Return a hash of all that decides the compiled code, and where numba looks for it."""
    import llvmlite.binding as llvm

    folder = Path(__file__).parent
    facts = [str(folder), platform.python_implementation(), platform.python_version()]
    facts += [version(package) for package in ("numba", "llvmlite", "numpy")]
    facts += [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    facts += [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("NUMBA_") and name not in _NO_MATTER
    ]
    digest = hashlib.sha256("\n".join(facts).encode(errors="surrogateescape"))
    for name in _SOURCES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:24]


def _compile(encode: Kernel, content: bytes | None = None) -> bytes:
    """Let numba compile `encode`, or load it from `content`; return numba's cache as a zip."""
    import numba

    config: Any = vars(numba)["config"]
    before = config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES
    with tempfile.TemporaryDirectory(prefix="mobilellama-kernel-") as scratch:
        if content is not None:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                archive.extractall(scratch)
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = scratch, ""
        try:
            encode.enable_caching()  # pyright: ignore[reportFunctionMemberAccess]
            with _without_scipy():
                _call(encode)
        finally:
            config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = before
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(Path(scratch).rglob("*.nb?")):
                archive.write(path, path.relative_to(scratch))
    return packed.getvalue()


@contextlib.contextmanager
def _without_scipy() -> Iterator[None]:
    """Let an import of scipy.linalg fail, unless it was imported before.

    numba tries it to learn whether it can compile products of matrices. The kernel has none, and
    the import takes half of the time to load it.
    """
    is_blocked = _SCIPY not in sys.modules
    if is_blocked:
        sys.modules[_SCIPY] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        if is_blocked:
            del sys.modules[_SCIPY]


def _call(encode: Kernel) -> None:
    """Encode no document, with arguments of the types that FastEncoding gives."""
    nothing = np.zeros(1, np.int32)
    encode(
        np.frombuffer(bytes(64), np.uint8),
        np.ndarray(57, np.dtype("<u8"), bytes(64), strides=(1,)),
        np.zeros(1, np.int64),
        0,
        0,
        np.zeros(1 << 16, np.uint8),
        Merges(nothing, nothing, np.zeros(1, np.uint64), np.uint64(63), nothing),
        make_memo(0),
        np.zeros((3, LONGEST_UNIT_BYTES), np.int32),
        nothing,
        np.zeros(0, np.int64),
        np.zeros((0, 4), np.int64),
    )
