"""A checkpoint as a source of weights. Its moments are not read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from mobilellama.config import DataError, UserError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.manifest import MANIFEST
from mobilellama.pretrain.weight_source import ShapedWeights
from mobilellama.progress import Progress
from mobilellama.run_folder import RunFolder


class CheckpointWeights(ShapedWeights):
    """The parameters of a checkpoint, under the names of the trained model, all in fp32.

    A checkpoint holds flat fragments without shapes: the shapes come from the model.

    Args:
        checkpoint: is open; ``close`` closes it.
        shapes: name and shape of every parameter of the trained model, adapters included.

    Raises:
        DataError: the parameters of the checkpoint and the model differ.
    """

    def __init__(self, checkpoint: Checkpoint, shapes: Mapping[str, torch.Size]) -> None:
        require_same_names(checkpoint, shapes)
        super().__init__(shapes)
        self.checkpoint = checkpoint

    def stored(self, name: str) -> Tensor:
        """Return a parameter. Masters are fp32; what does not train is converted to it."""
        return self.checkpoint.parameter(name, self._shapes[name])

    @property
    def fingerprint(self) -> str:
        """sha256 of the manifest, which holds the hashes of all files."""
        return sha256_of_file(self.checkpoint.folder / MANIFEST)

    def verify(self, *, share: int = 0, shares: int = 1) -> None:
        """Check the sha256 of every `shares`-th file. If one process checks all, show a bar.

        Raises:
            DataError: the bytes of a file have changed since it was written. The error names the
                run's other checkpoints.
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
    """Raise DataError unless the checkpoint has exactly these parameters, with these sizes."""
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
            raise DataError(
                f"{checkpoint.folder}: it {problem} {some}, unlike the model of its config"
            )


@contextmanager
def naming_other_steps(folder: Path) -> Iterator[None]:
    """Add the run's other checkpoints to the DataError of a damaged one.

    Args:
        folder: of the checkpoint that is read.
    """
    try:
        yield
    except DataError as error:
        run = RunFolder(folder.parent.parent)
        if folder.parent != run.checkpoints:
            raise
        found = [run.checkpoint(step) for step in run.checkpoint_steps()]
        others = [path.name for path in found if path != folder and _opens(path)]
        raise DataError(
            f"{error}. Other checkpoints of the run: {', '.join(others) or 'none'}"
        ) from None


def _opens(folder: Path) -> bool:
    try:
        Checkpoint(folder).close()
    except (UserError, OSError):
        return False
    return True
