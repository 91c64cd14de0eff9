"""What a command reads is looked at: a path, or a name that stands for what is not here."""

from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.inputs import InputPath, input_paths, require_inputs
from mobilellama.launch.steps import STEPS

FOLDER = InputPath(field="data", kind="folder", remedy="Give one")


@pytest.mark.parametrize("step", STEPS)
def test_every_step_that_can_be_launched_says_what_it_reads(step: str) -> None:
    assert all(path.remedy for path in input_paths(*STEPS[step].command))
    assert input_paths(*STEPS[step].command)


@pytest.mark.parametrize(
    ("kind", "name", "value", "rule"),
    [
        ("folder", None, "folder", None),
        ("folder", None, "file", "is not a folder"),
        ("file", None, "file", None),
        ("file", None, "folder", "is not a file"),
        ("path", None, "file", None),
        ("path", None, "gone", "does not exist"),
        ("folder", None, "dangling", "is a link to nothing"),
        ("folder", "hub", "mtgv/MobileLLaMA-1.4B", None),
        ("folder", "hub", "gpt2", None),
        ("folder", "owned", "mtgv/MobileLLaMA-1.4B", None),
        ("folder", "owned", "base", "does not exist"),
        ("folder", "hub", "mtgv/MobileLLaMA-1.4B@v1.0", None),
        ("folder", "hub", "./gone", "does not exist"),
        ("folder", "hub", "runs/of/mine", "does not exist"),
        ("path", "hub", "chats.json", "does not exist"),
        ("path", "hub", "/gone", "does not exist"),
        ("file", "preset", "vicuna_v1", None),
        ("file", "preset", "mine.yaml", "does not exist"),
        ("file", "preset", "mine/template", "does not exist"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_unless_it_may_be_a_name(
    kind: str,
    name: str | None,
    value: str,
    rule: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    Path("dangling").symlink_to("nothing")
    path = InputPath(field="data.path", kind=kind, name=name, remedy="Give one")  # type: ignore[arg-type]
    if rule is None:
        path.require(value)
        return
    with pytest.raises(ConfigError) as caught:
        path.require(value)
    assert str(caught.value).startswith(f"data.path = {value}: {rule}. Give one. ")


def test_what_another_command_will_have_made_is_not_looked_at(tmp_path: Path) -> None:
    made = tmp_path / "made"
    require_inputs([FOLDER], lambda _: str(made / "within"), made=[made])
    with pytest.raises(ConfigError, match="does not exist"):
        require_inputs([FOLDER], lambda _: str(tmp_path / "made-not"), made=[made])


def test_a_field_that_is_not_given_is_not_looked_at() -> None:
    for value in (None, "null", ""):
        require_inputs([FOLDER], {"data": value}.get)


def test_a_field_that_another_replaces_is_not_looked_at() -> None:
    path = InputPath(field="base", kind="folder", remedy="Give one", unless="checkpoint")
    require_inputs([path], {"base": "gone", "checkpoint": "run"}.get)
    with pytest.raises(ConfigError):
        require_inputs([path], {"base": "gone"}.get)


def test_a_url_is_not_looked_at_where_the_field_takes_one() -> None:
    taken = InputPath(field="sources.root", kind="folder", remedy="Give it", url=True)
    taken.require("s3://bucket/corpus")
    with pytest.raises(ConfigError, match="s3:/bucket: does not exist"):
        taken.require("s3:/bucket")
    with pytest.raises(ConfigError, match="s3://bucket: does not exist"):
        InputPath(field="sources.root", kind="folder", remedy="Give it").require("s3://bucket")
