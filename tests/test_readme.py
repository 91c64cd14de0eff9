"""README and docs tell the truth: their commands exist, with the fields that they give them."""

import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest
import yaml

from mobilellama.launch.config import read_options, split_options
from mobilellama.launch.pipeline_file import Config as PipelineConfig
from mobilellama.launch.pipeline_file import StepConfig, read_links
from mobilellama.launch.steps import STEPS

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


FOLDERS = "mobilellama|tokenize|shards|pretrain|sft|vlm|launch|tests|demo"
NAMED = re.compile(rf"`((?:{FOLDERS})/[\w./]+)`")


def test_every_file_and_folder_that_a_page_names_is_there() -> None:
    named = {name for page in PAGES for name in NAMED.findall(page)}
    assert {"pretrain/loop.py", "vlm/projectors/table.py", "sft/data/templates/"} <= named
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


WITH_FIELDS = [line for line in commands("mobilellama") if "--help" not in line]


@pytest.mark.parametrize("line", [*WITH_FIELDS, *commands("torchrun")])
def test_every_command_is_understood(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)
    stage, *arguments = words[words.index("mobilellama") + 1 :]
    if stage == "launch" and arguments[0] in STEPS:
        mine, theirs = split_options(arguments[1:])
        require_understood("launch", [arguments[0], *mine], capsys)
        stage, *arguments = *STEPS[arguments[0]].command, *theirs
    if line.startswith("mobilellama launch pipeline"):
        return  # its file has a test of its own
    require_understood(stage, arguments, capsys)


def require_understood(
    stage: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Check that a command's fields come out of --print_config as they were given."""
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
            wanted = value.split(",") if isinstance(got, list) else type(got)(value)
            assert str(got) == str(wanted), flag  # "1.3e12" is the number 1.3e12


def test_the_pipeline_of_the_docs_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "slurm.md").read_text()
    [block] = re.findall(r"```yaml\n(# pipeline\.yaml\n.*?)```", page, flags=re.DOTALL)
    values = yaml.safe_load(block)
    steps = [StepConfig(**step) for step in values["steps"]]
    links = read_links(PipelineConfig(steps=steps, slurm=values["slurm"]), [])
    assert [link.after for link in links[:3]] == [[], ["tokenize"], ["pretrain"]]
    for link in links:
        require_understood(
            link.order.step.command[0], [link.order.step.command[1], *link.order.arguments], capsys
        )


def test_the_site_file_of_the_docs_is_understood(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "slurm.md").read_text()
    [block] = re.findall(r"```yaml\n(slurm:\n  partition:.*?)```", page, flags=re.DOTALL)
    (tmp_path / "slurm.yaml").write_text(block)
    words = ["--slurm.config", str(tmp_path / "slurm.yaml")]
    slurm = read_options(words, prog="", about="").slurm
    assert (slurm.extra, slurm.env["NCCL_DEBUG"]) == ("--qos=high", "WARN")


def test_every_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make ([a-z0-9-]+)", " ".join(re.findall(r"`[^`]*`", README))))
    named |= {line.split()[1] for line in commands("make")}
    assert {"demo", "test"} <= named
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


def test_every_file_and_folder_it_names_exists() -> None:
    tree = re.findall(r"^(\w+)/ {2,}", README, flags=re.MULTILINE)
    assert {"tokenize", "shards", "pretrain", "tests"} <= set(tree)
    files = re.findall(
        r"`((?:shards|pretrain|sft|tokenize|vlm|launch|mobilellama)/\w+\.py)`", README
    )
    assert files
    links = re.findall(r"\]\((docs/[^)#]+)", README)
    between = {f"docs/{name}" for page in PAGES[1:] for name in re.findall(r"\]\((\w+\.md)", page)}
    assert {*links, *between} == {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    links += [
        f"docs/{name}" for page in PAGES[1:] for name in re.findall(r"\]\((\w+\.svg)\)", page)
    ]
    assert [path for path in [*tree, *files, *links] if not (ROOT / path).exists()] == []


def test_every_preset_that_a_page_names_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"--config ([\w/]+)\b(?!\.)", page)}
    presets = {path.stem for path in ROOT.glob("*/presets/*.yaml")}
    presets |= {f"bases/{path.stem}" for path in ROOT.glob("*/presets/bases/*.yaml")}
    assert named and named <= presets
