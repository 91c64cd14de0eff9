"""Parameters of tests are the same each time: pytest-xdist refuses workers that collect others.

A parameter that holds the time, a process or a random part differs from worker to worker, but
only now and then: gzip writes the second into its header. So nothing outside a function asks for
one: not a decorator, and not a constant that a decorator may name.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
VARIES = (
    "time.", "datetime.now", "uuid.", "random.", "secrets.", "tempfile.", "gzip.GzipFile",
    "os.getpid", "os.urandom",
)  # fmt: skip


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: all but the bodies of functions."""
    yield node
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        inner = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    else:
        inner = ast.iter_child_nodes(node)
    for child in inner:
        yield from outside_functions(child)


def varying_calls(source: str) -> list[str]:
    """Return the calls at import of a module whose values can differ between processes."""
    found = []
    for node in outside_functions(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        timed = name == "gzip.compress" and "mtime" not in {it.arg for it in node.keywords}
        if timed or any(name.startswith(it) for it in VARIES):
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ("gzip.compress(DATA)[:-9]", ["gzip.compress"]),
        ("gzip.compress(DATA, mtime=0)[:-9]", []),
        ("('a', time.time())", ["time.time"]),
        ("random.Random(7).random()", ["random.Random(7).random", "random.Random"]),
        ("f'{os.getpid()}'", ["os.getpid"]),
        ("lambda: time.time()", []),
        ("sorted('ab')", []),
    ],
)
def test_a_value_that_varies_is_seen(values: str, found: list[str]) -> None:
    source = f"@pytest.mark.parametrize('a', [{values}])\ndef test_it(a): time.time()\n"
    assert varying_calls(source) == found
    assert varying_calls(f"VALUES = {values}\n") == found


def test_nothing_outside_a_function_varies() -> None:
    paths = sorted(TESTS.rglob("test_*.py"))
    assert len(paths) > 100
    found = {str(path): varying_calls(path.read_text()) for path in paths}
    assert {path: calls for path, calls in found.items() if calls} == {}
