"""A checkpoint as a source of weights, without its moments."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from mobilellama.config import DataError, UserError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.manifest import MANIFEST
from mobilellama.pretrain.weight_source import WeightSource
from mobilellama.progress import Progress
from mobilellama.run_folder import RunFolder


class CheckpointWeights(WeightSource):
    """The parameters of a checkpoint under the names of the model that trained, all in fp32.

    A checkpoint holds flat fragments and does not know their shapes: they come from its model.

    Args:
        checkpoint: opened; ``close`` closes it.
        shapes: name and shape of every parameter of the model that trained, adapters included.

    Raises:
        DataError: the checkpoint's parameters are not those of the model.
    """

    def __init__(self, checkpoint: Checkpoint, shapes: Mapping[str, torch.Size]) -> None:
        require_same_names(checkpoint, shapes)
        self.checkpoint, self._shapes = checkpoint, dict(shapes)

    def names(self) -> list[str]:
        """Return the names in the model's order."""
        return list(self._shapes)

    def shape(self, name: str) -> torch.Size:
        """Return a parameter's shape."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """Return fp32: the masters' dtype, which parameters that do not train are given in too."""
        del name
        return torch.float32

    def stored(self, name: str) -> Tensor:
        """Return a parameter in fp32."""
        return self.checkpoint.parameter(name, self._shapes[name])

    @property
    def fingerprint(self) -> str:
        """sha256 of the manifest, which names the hashes of all files."""
        return sha256_of_file(self.checkpoint.folder / MANIFEST)

    def verify(self, *, share: int = 0, shares: int = 1) -> None:
        """Check the sha256 of every `shares`-th file; with a bar where one process checks all.

        Raises:
            DataError: a file's bytes are not those that were written; the run's other steps are
                named.
        """
        checkpoint = self.checkpoint
        with naming_other_steps(checkpoint.folder):
            if shares > 1:  # several bars on one terminal would overwrite each other
                checkpoint.verify(share=share, shares=shares)
                return
            sizes_mb = [receipt["file"]["bytes"] / 1e6 for receipt in checkpoint.receipts]
            title = f"verify {checkpoint.folder.name}"
            with Progress(title, total=sum(sizes_mb), unit="MB") as progress:
                for i, size_mb in enumerate(sizes_mb):
                    checkpoint.verify(share=i, shares=len(sizes_mb))
                    progress.advance(size_mb)

    def close(self) -> None:
        """Close the checkpoint."""
        self.checkpoint.close()


def require_same_names(checkpoint: Checkpoint, shapes: Mapping[str, torch.Size]) -> None:
    """Raise DataError unless the checkpoint has exactly these parameters, in these sizes."""
    stored = set(checkpoint.names())
    missing, unexpected = sorted(set(shapes) - stored), sorted(stored - set(shapes))
    wrong = [
        f"{name} ({checkpoint.numel(name)} elements, not {shapes[name].numel()})"
        for name in sorted(stored & set(shapes))
        if checkpoint.numel(name) != shapes[name].numel()
    ]
    for problem, names in (("lacks", missing), ("also has", unexpected), ("has sizes of", wrong)):
        if names:
            some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            raise DataError(f"{checkpoint.folder}: it {problem} {some}, unlike its config's model")


@contextmanager
def naming_other_steps(folder: Path) -> Iterator[None]:
    """Add to the DataError of a damaged checkpoint, in `folder`, which others the run has."""
    try:
        yield
    except DataError as error:
        run = RunFolder(folder.parent.parent)
        if folder.parent != run.checkpoints:
            raise
        found = [run.checkpoint(step) for step in run.checkpoint_steps()]
        others = [path.name for path in found if path != folder and _opens(path)]
        raise DataError(f"{error}: the run has {', '.join(others) or 'no other'}") from None


def _opens(folder: Path) -> bool:
    try:
        Checkpoint(folder).close()
    except (UserError, OSError):
        return False
    return True
