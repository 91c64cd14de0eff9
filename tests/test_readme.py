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
from mobilellama.pretrain.sections import TrainConfig
from mobilellama.pretrain.state.config import CheckpointConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = [README, CONTRIBUTING, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]


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
            link.request.step.command[0],
            [link.request.step.command[1], *link.request.arguments],
            capsys,
        )


def test_the_site_file_of_the_docs_is_understood(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "slurm.md").read_text()
    [block] = re.findall(r"```yaml\n(slurm:\n  partition:.*?)```", page, flags=re.DOTALL)
    (tmp_path / "slurm.yaml").write_text(block)
    words = ["--slurm.config", str(tmp_path / "slurm.yaml")]
    slurm = read_options(words, prog="", about="").slurm
    assert (slurm.extra, slurm.env["NCCL_DEBUG"]) == ("--qos=high", "WARN")


def test_readme_make_help_and_the_demo_tell_the_same_minutes() -> None:
    makefile = (ROOT / "Makefile").read_text()
    demo = r"(about \w+) minutes"
    texts = [README, makefile, CONTRIBUTING, (ROOT / "demo" / "run.py").read_text()]
    told = [set(re.findall(demo, text)) for text in texts]
    told.append(
        set(re.findall(r"`make demo`.*\| (about \w+) \|$", CONTRIBUTING, flags=re.MULTILINE))
    )
    assert told == [{"about ten"}] * len(told)
    unit = re.findall(r"the fast tests: (.*) minutes", makefile)
    assert unit == re.findall(r"`make unit`.*\| (under \w+) \|$", CONTRIBUTING, flags=re.MULTILINE)
    assert unit == ["under five"]


def test_every_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make ([a-z0-9-]+)", " ".join(re.findall(r"`[^`]*`", README))))
    named |= set(re.findall(r"`make ([a-z0-9-]+)`", CONTRIBUTING))
    named |= {line.split()[1] for line in commands("make")}
    assert {"demo", "test"} <= named
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


@pytest.mark.parametrize(
    ("size", "parameters", "tokens_per_s"),
    [("1.4B", 1_364_297_728, 18_800), ("2.7B", 2_701_560_320, 8_500)],
)
def test_the_costs_of_pretraining_follow_from_the_preset(
    size: str, parameters: int, tokens_per_s: int
) -> None:
    """Tokens per second of one A100: MobileVLM (arXiv 2312.16886), section 4.1."""
    preset = yaml.safe_load((ROOT / "pretrain/presets/bases/mobilellama.yaml").read_text())
    train, saving = TrainConfig(**preset["train"]), CheckpointConfig()
    assert "checkpoint" not in preset and saving.keep_every_steps
    hours = train.max_steps * train.tokens_per_step / tokens_per_s / 3600
    kept = train.max_steps // saving.keep_every_steps + saving.keep_last
    checkpoint_gb = 12 * parameters / 1e9
    [row] = re.findall(rf"^\| pretrain {size} \|.*$", README, flags=re.MULTILINE)
    for told in (
        f"{round(hours, -2):,.0f} at {tokens_per_s:,} tokens/s",
        f"{hours / 24 / 160:.1f} days on 160 GPUs; {hours / 24 / 8:.0f} on 8",
        f"{(8 + 12 / 8) * parameters / 1e9:.0f} GB on 8 GPUs",
        f"{kept} x {checkpoint_gb:.1f} = {kept * checkpoint_gb:.0f} GB",
    ):
        assert told in row


def files_of_the_tree() -> list[str]:
    """Return the folders of README's tree, and the files that stand below them."""
    [block] = re.findall(r"```\n(shards/ .*?)```", README, flags=re.DOTALL)
    found: list[str] = []
    for line in block.splitlines():
        name = line.split()[0].rstrip("/")
        if line.startswith("  "):
            name = f"{next(path for path in reversed(found) if '/' not in path)}/{name}"
        found.append(name)
    return found


def test_every_file_and_folder_it_names_exists() -> None:
    tree = files_of_the_tree()
    assert {"tokenize", "shards", "tests", "pretrain/loop.py"} <= set(tree)
    links = re.findall(r"\]\((docs/[^)#]+)", README)
    between = {f"docs/{name}" for page in PAGES[2:] for name in re.findall(r"\]\((\w+\.md)", page)}
    assert {*links, *between} == {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    links += [
        f"docs/{name}" for page in PAGES[2:] for name in re.findall(r"\]\((\w+\.svg)\)", page)
    ]
    assert [path for path in [*tree, *links] if not (ROOT / path).exists()] == []


def test_every_preset_that_a_page_names_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"--config ([\w/]+)\b(?!\.)", page)}
    presets = {path.stem for path in ROOT.glob("*/presets/*.yaml")}
    presets |= {f"bases/{path.stem}" for path in ROOT.glob("*/presets/bases/*.yaml")}
    assert named and named <= presets
