"""Folders and files that touch a file, the canary, if anything of theirs is run."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch

MODULE = "evil.py"


class Touch:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._canary),)


def write_code(folder: Path, canary: Path) -> None:
    """Write Python that touches the canary, and name it in every config that a folder has."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"open({str(canary)!r}, 'w').close()", "class Evil:", "    pass"]
    (folder / MODULE).write_text("\n".join(lines))
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoImageProcessor")
    code = dict.fromkeys(names, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    wanted = {
        "config.json": {"model_type": "evil", "architectures": ["Evil"]},
        "tokenizer_config.json": {"tokenizer_class": "Evil"},
        "preprocessor_config.json": {"image_processor_type": "Evil"},
    }
    for name, replaced in wanted.items():
        path = folder / name
        values = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(values | replaced | {"auto_map": code}))
    (folder / "custom_generate").mkdir(exist_ok=True)
    (folder / "custom_generate" / "generate.py").write_text(lines[0])


def write_pickle(path: Path, canary: Path, *, way: str = "zip") -> Path:
    """Write a pickle that touches the canary: torch's zip, its old form, or a bare pickle."""
    content = {"weight": torch.zeros(2), "more": Touch(canary)}
    if way == "bare":
        path.write_bytes(pickle.dumps(content["more"], protocol=4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
    return path
