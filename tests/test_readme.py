"""README and docs tell the truth: their commands exist, with the fields that they give them."""

import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]


def commands(start: str) -> list[str]:
    """Return the lines of the pages' shell blocks that begin with a word."""
    blocks = [
        block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    ]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(start)]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 200


WITH_FIELDS = [line for line in commands("mobilellama") if "--help" not in line]


@pytest.mark.parametrize("line", [*WITH_FIELDS, *commands("torchrun")])
def test_every_command_is_understood(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)
    stage, *arguments = words[words.index("mobilellama") + 1 :]
    main = importlib.import_module(f"mobilellama.{stage}.main").main
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--print_config"])
    assert left.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for flag, value in itertools.pairwise(arguments):
        if flag.startswith("--") and not value.startswith("--") and flag != "--config":
            got = printed
            for name in flag.removeprefix("--").split("."):
                got = got[name]
            wanted = [value] if isinstance(got, list) else type(got)(value)
            assert str(got) == str(wanted), flag  # "1.3e12" is the number 1.3e12


def test_every_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make ([a-z0-9-]+)", " ".join(re.findall(r"`[^`]*`", README))))
    named |= {line.split()[1] for line in commands("make")}
    assert {"demo", "test"} <= named
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


def test_every_file_and_folder_it_names_exists() -> None:
    tree = re.findall(r"^(\w+)/ {2,}", README, flags=re.MULTILINE)
    assert {"tokenize", "shards", "pretrain", "tests"} <= set(tree)
    files = re.findall(r"`((?:shards|pretrain|sft|tokenize|vlm|mobilellama)/\w+\.py)`", README)
    assert files
    links = re.findall(r"\]\((docs/[^)]+)\)", README)
    assert len(links) == len(PAGES) - 1
    assert [path for path in [*tree, *files, *links] if not (ROOT / path).exists()] == []


def test_every_preset_that_a_page_names_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"--config (\w+)", page)}
    presets = {path.stem for path in ROOT.glob("*/presets/*.yaml")}
    assert named and named <= presets
