"""Plain data parallelism: every rank holds the whole fp32 state; bf16 by autocast."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mobilellama.pretrain.engines.engine import Fragment, StateSource, StepReport
from mobilellama.pretrain.model import LossSums
from mobilellama.pretrain.optimizer import ParameterGroup, torch_groups
from mobilellama.pretrain.optimizers.kind import OptimizerKind


class DDPEngine:
    """torch's DistributedDataParallel behind the ``Engine`` protocol."""

    def __init__(
        self,
        model: nn.Module,
        groups: list[ParameterGroup],
        *,
        precision: str,
        optimizer: OptimizerKind,
        rank: int,
        world_size: int,
    ) -> None:
        """Wrap the model; torch.distributed is already initialised."""
        self.optimizer = optimizer
        self._steps = optimizer.build(torch_groups(groups))
        self._groups, self._max_grad_norm = groups, optimizer.config.max_grad_norm
        self._rank, self._world_size = rank, world_size
        self._parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._device_type = self._parameters[0][1].device.type
        self._bf16 = precision == "bf16"
        # torch 2.13 warns that broadcast_buffers has a new name, which torch 2.11 does not have.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # The model's buffers are constants such as rotary tables, so no rank has to broadcast
            # them. Gradients as views of the buckets save a second copy: 4 bytes a parameter.
            self._module = DistributedDataParallel(
                model, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.optimizer_step = 0

    def forward(self, inputs: Mapping[str, Tensor], *, last: bool) -> LossSums:
        """Run the model on one micro-batch. The backward of the `last` one reduces."""
        # DDP decides in forward whether the next backward reduces. One all-reduce a step is
        # enough: the gradients of earlier micro-batches wait, added up, in the buckets.
        with (
            nullcontext() if last else self._module.no_sync(),
            torch.autocast(self._device_type, torch.bfloat16, enabled=self._bf16),
        ):
            return self._module(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the step."""
        (loss * self._world_size).backward()  # DDP averages over ranks; the contract is the sum

    def step(self, lr_factor: float) -> StepReport:
        """Clip and apply the gradients; skip the step if they are not finite."""
        for group, ours in zip(self._steps.param_groups, self._groups, strict=True):
            group["lr"] = ours.learning_rate * lr_factor
        parameters = [parameter for _, parameter in self._parameters]
        # Host-device sync: float() waits for the GPU. The step must know now whether to apply.
        # No collective: gradients are equal on all ranks, so all ranks decide the same.
        grad_norm = float(nn.utils.clip_grad_norm_(parameters, self._max_grad_norm))
        applied = grad_norm < float("inf")  # False for NaN too
        if applied:
            self._steps.step()
            self.optimizer_step += 1
        self._steps.zero_grad(set_to_none=True)
        return StepReport(grad_norm if applied else float("inf"), applied)

    def fragments(self) -> Iterator[Fragment]:
        """Yield every world_size-th parameter. All ranks hold all state; each writes a share."""
        for name, parameter in self._parameters[self._rank :: self._world_size]:
            yield self._fragment(name, parameter)

    def _fragment(self, name: str, parameter: nn.Parameter) -> Fragment:
        state = self._steps.state[parameter]
        named = {key: state[key].view(-1) for key in self.optimizer.state_names}
        return Fragment(name, 0, parameter.detach().view(-1), named)

    @torch.no_grad()
    def load(self, source: StateSource) -> None:
        """Load weights and optimizer state. Every rank reads all of them."""
        for name, parameter in self._parameters:
            # torch's optimizers make their state in their first step only, so it is made here.
            first = self.optimizer.first_state(parameter.detach(), source.optimizer_step)
            self._steps.state[parameter] = first
            source.read(self._fragment(name, parameter))
        self.optimizer_step = source.optimizer_step

    def train(self, mode: bool) -> None:
        """Switch between training and evaluation."""
        self._module.train(mode)
