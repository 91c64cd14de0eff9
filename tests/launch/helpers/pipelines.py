"""The steps of a small pipeline, and its file."""

from pathlib import Path
from typing import Any

import yaml

from mobilellama.launch.pipeline_file import Config, StepConfig, read_links

TOKENIZE: dict[str, Any] = {
    "step": "tokenize",
    "args": {"output": "data", "sources": {"root": "corpus"}},
}
PRETRAIN: dict[str, Any] = {
    "step": "pretrain",
    "args": {"run": {"folder": "run"}, "config": "demo"},
}
EXPORT: dict[str, Any] = {"step": "export", "args": {"checkpoint": "run", "output": "model"}}


def write(values: Any) -> str:
    Path("pipeline.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return "pipeline.yaml"


def links(*steps: dict[str, Any], **shared: Any) -> Any:
    return read_links(Config(steps=[StepConfig(**step) for step in steps], **shared), [])
