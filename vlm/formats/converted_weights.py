"""A language model's folder by the names of transformers' model, through its own conversion.

transformers 5 renames and joins weights as it loads them: of Mixtral's and Qwen's experts, each of
which has files' tensors of its own, it makes one tensor for all. What becomes of a name is asked of
transformers; weights are joined when they are read, one parameter at a time.
"""

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mobilellama.config import DataError, one_line
from mobilellama.pretrain.hf.weight_files import StoredWeights
from mobilellama.pretrain.weight_source import WeightSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Parts = list[tuple[str, str]]
"""(stored name, the converter's pattern that it matched), in the order in which they are joined."""


class ConvertedWeights(WeightSource):
    """What ``StoredWeights`` gives, under the names of a model's parameters.

    Args:
        stored: the folder's weights.
        model: of transformers, which will have them; it may be on ``meta``.
        where: the folder, for messages.

    Raises:
        DataError: weights that are to be joined do not fit together.
    """

    def __init__(self, stored: StoredWeights, model: "PreTrainedModel", where: str) -> None:
        self.paths = stored.paths
        self._stored, self._model, self._where = stored, model, where
        self._plain: dict[str, str] = {}
        """A parameter's name -> the stored one, where it comes as it is."""
        self._joined: dict[str, str] = {}
        """A parameter's name -> what its group is called."""
        self._groups: dict[str, tuple[Any, Parts]] = {}
        self._shapes: dict[str, torch.Size] = {}
        self._sort()
        for group in self._groups:
            for name, value in self._convert(group, self._empty).items():
                self._joined[name], self._shapes[name] = group, value.shape

    def _sort(self) -> None:
        """Sort the stored names into those that come as they are and those that are converted."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )

        transforms = get_model_conversion_mapping(self._model)
        renamings = [its for its in transforms if isinstance(its, WeightRenaming)]
        converters = [its for its in transforms if isinstance(its, WeightConverter)]
        of_pattern = {pattern: its for its in converters for pattern in its.source_patterns}
        wanted, prefix = self._model.state_dict(), self._model.base_model_prefix
        parts: dict[str, Parts] = defaultdict(list)
        for stored in sorted(self._stored.names(), key=dot_natural_key):
            name, pattern = rename_source_key(stored, renamings, converters, prefix, wanted)
            if name not in wanted and stored in wanted:
                name, pattern = stored, None
            if pattern is None or name not in wanted:
                # What the model has no place for keeps its name, for the message that says so.
                self._plain[name if name in wanted else stored] = stored
            else:
                parts[name].append((stored, pattern))
        self._groups = {name: (of_pattern[its[0][1]], its) for name, its in parts.items()}

    def _empty(self, stored: str) -> Tensor:
        return torch.empty(self._stored.shape(stored), device="meta")

    def _convert(self, group: str, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Return the parameters that are made of a group's weights."""
        converter, parts = self._groups[group]
        converter = deepcopy(converter)
        for stored, pattern in parts:
            converter.add_tensor(group, stored, pattern, read(stored))
        try:
            made = converter.convert(group, model=self._model, config=self._model.config)
        except (RuntimeError, ValueError, IndexError, KeyError) as error:
            what = f"the {len(parts)} weights of '{group}' do not fit together"
            raise DataError(f"{self._where}: {what} ({one_line(error)})") from None
        return {name: its[0] if isinstance(its, list) else its for name, its in made.items()}

    def names(self) -> list[str]:
        """Return the names of all weights; what the model has no place for is as it is stored."""
        return [*self._plain, *self._joined]

    def shape(self, name: str) -> torch.Size:
        """Return a weight's shape."""
        if name in self._plain:
            return self._stored.shape(self._plain[name])
        return self._shapes[name]

    def dtype(self, name: str) -> Any:
        """Return a weight's dtype: torch's, or the file's name of one that torch has not."""
        if name in self._plain:
            return self._stored.dtype(self._plain[name])
        kinds = {self._stored.dtype(stored) for stored, _ in self._groups[self._joined[name]][1]}
        if foreign := [kind for kind in kinds if not isinstance(kind, torch.dtype)]:
            return foreign[0]
        first, *others = kinds
        for kind in others:
            first = torch.promote_types(first, kind)
        return first

    def stored(self, name: str) -> Tensor:
        """Return a weight; one that is not converted may be a view of the file."""
        if name in self._plain:
            return self._stored.stored(self._plain[name])
        dtype = self.dtype(name)
        return self._convert(
            self._joined[name], lambda stored: self._stored.stored(stored).to(dtype)
        )[name]

    @property
    def fingerprint(self) -> str:
        """The folder's."""
        return self._stored.fingerprint

    def close(self) -> None:
        """Let go of the files."""
        self._stored.close()
