"""Run a peer's tokenising command, in the interpreter that has the peer (see tokenize_peers.py).

    PYTHON tokenize_peer_commands.py datatrove CORPUS tokenizer.json OUTPUT
    PYTHON tokenize_peer_commands.py megatron tools/preprocess_data.py ITS OPTIONS

It imports nothing of ours, which the peer's interpreter may not have.
"""

import runpy
import sys
import typing
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock


def datatrove(corpus: str, tokenizer: str, output: str) -> None:
    """Tokenise a folder as datatrove's examples do: a task, a process, documents shuffled."""
    from datatrove.executor import LocalPipelineExecutor  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline.readers import JsonlReader  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline.tokens import DocumentTokenizer  # pyright: ignore[reportMissingImports]

    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(corpus),
            DocumentTokenizer(output, tokenizer_name_or_path=tokenizer, eos_token="</s>", seed=1),
        ],
        tasks=1, workers=1, logging_dir=f"{output}/logs",
    ).run()  # fmt: skip


def megatron(script: str, *options: str) -> None:
    """Run Megatron-LM's script on a machine without a GPU.

    It reads its options through ``megatron.training``, which imports the GPU kernels of the whole
    trainer, and Python 3.12's ``typing.override``. Neither is used to tokenise, so stand-ins are
    put in their place. The script and its tokenizer, its pool and its writer are its own.
    """
    if not hasattr(typing, "override"):
        typing.override = lambda method: method  # pyright: ignore[reportAttributeAccessIssue]
    sys.meta_path.insert(0, _NoKernels())
    sys.path.insert(0, str(Path(script).parents[1]))
    sys.argv = [script, *options]
    runpy.run_path(script, run_name="__main__")


class _NoKernels(MetaPathFinder, Loader):
    """Puts a stand-in in place of each of Megatron-LM's modules that import triton."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("megatron."):
            return None
        found = PathFinder.find_spec(fullname, path, target)
        if found is None or not found.has_location or found.origin is None:
            return None
        is_kernel = "\nimport triton\n" in Path(found.origin).read_text(encoding="utf-8")
        return ModuleSpec(fullname, self) if is_kernel else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return MagicMock(name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


if __name__ == "__main__":
    {"datatrove": datatrove, "megatron": megatron}[sys.argv[1]](*sys.argv[2:])
