"""What the tests of the command line share: the program, and its refusals."""

from collections.abc import Callable

import pytest

from mobilellama import __main__ as command
from tests.helpers.command_line import RUN, Cli


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``mobilellama ARGUMENTS`` through its real entry; return (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["mobilellama", *map(str, arguments)])
        capsys.readouterr()
        code = command.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def refused(cli: Cli) -> Callable[..., str]:
    """Run a command that must be refused; return its message, which is one line."""

    def run(*arguments: object) -> str:
        code, out, errors = cli(*arguments)
        assert (code, out) == (2, "")
        assert errors.startswith("mobilellama: error: ") and errors.count("\n") == 1
        return errors.removeprefix("mobilellama: error: ").strip()

    return run


@pytest.fixture
def printed(cli: Cli, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The whole config that 'pretrain run ARGUMENTS --print_config' prints."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as left:
            cli(*RUN, *arguments, "--print_config")
        assert left.value.code == 0
        return capsys.readouterr().out

    return run
