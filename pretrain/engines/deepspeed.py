"""The DeepSpeed ZeRO engine, on GPUs or CPUs.

Four things of DeepSpeed are set right here (measured with 0.19.8):
- It compiles an inference-only op whenever it starts on a CPU; that is switched off.
- By default it counts only the last of several ``backward`` calls before a ``step``; with
  ``managed_gradient_accumulation`` off, and fp32 accumulation and reduction, they add up.
- It makes bf16 masters from the already rounded weights; ``load`` sets them from fp32.
- It trusts that all ranks make the same gradients in the same order; that is checked.
Its checkpoints are not used: the state is read and written through each parameter's own
address map, by name.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.engines.engine import Fragment, StateSource, StepReport
from mobilellama.pretrain.engines.gradient_order import GradientOrder
from mobilellama.pretrain.model import LossSums
from mobilellama.pretrain.optimizer import ParameterGroup, build_adamw
from mobilellama.pretrain.sections import OptimizerConfig


class DeepSpeedEngine:
    """``deepspeed.initialize``'s engine behind the ``Engine`` protocol."""

    def __init__(
        self,
        model: nn.Module,
        groups: list[ParameterGroup],
        *,
        config: EngineConfig,
        precision: str,
        optimizer: OptimizerConfig,
        micro_batch_size: int,
        world_size: int,
    ) -> None:
        """Wrap the model; torch.distributed is already initialised."""
        import deepspeed

        # "import deepspeed.comm.torch" would bind the torch backend's own torch module.
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
        backend = torch.distributed.get_backend()
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
        adamw = build_adamw(groups, optimizer)
        bf16 = precision == "bf16"
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": micro_batch_size,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,
            "bf16": {"enabled": bf16, "check_grad_overflow": True},
            "zero_optimization": {
                "stage": config.zero_stage,
                "reduce_bucket_size": config.bucket_elements,
                "allgather_bucket_size": config.bucket_elements,
            },
            "gradient_clipping": optimizer.max_grad_norm,
            "steps_per_print": sys.maxsize,
        }
        if bf16:
            settings["data_types"] = {"grad_accum_dtype": config.grad_accum_dtype}
            settings["communication_data_type"] = config.communication_dtype
        self._engine: Any
        self._zero: Any  # DeepSpeedZeroOptimizer, or under bf16 BF16_Optimizer
        with redirect_stdout(StringIO()):  # it prints a page of memory figures
            self._engine, self._zero, *_ = deepspeed.initialize(
                model=model, optimizer=adamw, config=settings, dist_init_required=False
            )
        self._groups, self._world_size = groups, world_size
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._device = trained[0][1].device
        ordered = config.zero_stage == 2
        self._order = GradientOrder(trained, ordered=ordered) if world_size > 1 else None
        if self._order and ordered:
            self._zero.reduce_ipg_grads = self._checked(self._zero.reduce_ipg_grads)
        self.optimizer_step = 0

    def _checked(self, reduce: Callable[..., None]) -> Callable[..., None]:
        """Return what reduces a bucket of ZeRO-2's, after a look at what the ranks put into it.

        Buckets of two sizes would end in gloo's abort or wait in NCCL, so that ``step`` is too
        late. It costs 16 bytes and one host-device sync a bucket and micro-batch; with 1.4B
        parameters in buckets of ``bucket_elements`` = 500 million, three, beside reducing 5.6 GB.
        """

        def checked(*args: Any, **kwargs: Any) -> None:
            assert self._order
            self._order.require_same(self._device)
            reduce(*args, **kwargs)

        return checked

    def forward(self, inputs: Mapping[str, Tensor], *, last: bool) -> LossSums:
        """Run the model on one micro-batch; DeepSpeed reduces in ``step``, whatever `last` says."""
        del last
        return self._engine(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to the step's."""
        self._engine.backward(loss * self._world_size)  # it averages over ranks

    def step(self, lr_factor: float) -> StepReport:
        """Reduce, clip and apply.

        Raises:
            GradientOrderError: the ranks' gradients are not of the same parameters.
        """
        if self._order:
            self._order.require_same(self._device)
        for group, ours in zip(self._zero.param_groups, self._groups, strict=True):
            group["lr"] = ours.learning_rate * lr_factor
        self._engine.step()
        applied = self._engine.was_step_applied()
        self.optimizer_step += applied
        return StepReport(float(self._engine.get_global_grad_norm() or 0.0), applied)

    def fragments(self) -> Iterator[Fragment]:
        """Yield the pieces of the state that this rank's partitions hold."""
        for parameter, flat, inside, place in self._addresses():
            state = self._zero.optimizer.state[flat]
            yield Fragment(
                self._names[parameter],
                inside.start,
                flat.detach()[place],
                state["exp_avg"][place],
                state["exp_avg_sq"][place],
            )

    def _addresses(self) -> Iterator[tuple[nn.Parameter, Tensor, Any, slice]]:
        """Yield (parameter, flat partition, place in the parameter, place in the partition)."""
        for parameters, flat in zip(self._working_groups, self._partitions, strict=True):
            for parameter in parameters:
                mapping: Any = getattr(parameter, "_hp_mapping")  # noqa: B009  (DeepSpeed's own)
                if mapping is not None:  # None: the parameter lies in other ranks' partitions
                    inside, place = mapping.lp_fragment_address, mapping.hp_fragment_address
                    yield parameter, flat, inside, slice(place.start, place.start + place.numel)

    @property
    def _partitions(self) -> list[Tensor]:
        """This rank's flat fp32 masters, one a group (two optimizers, two names)."""
        partitions = getattr(self._zero, "fp32_groups_flat_partition", None)
        return partitions or self._zero.single_partition_of_fp32_groups

    @property
    def _working_groups(self) -> list[list[nn.Parameter]]:
        return getattr(self._zero, "bf16_groups", None) or self._zero.bit16_groups

    @torch.no_grad()
    def load(self, source: StateSource) -> None:
        """Set masters and moments, then gather the rounded masters into the working weights."""
        for flat in self._partitions:
            self._zero.optimizer.state[flat] = {
                "step": torch.tensor(float(source.optimizer_step), device=flat.device),
                "exp_avg": torch.zeros_like(flat),
                "exp_avg_sq": torch.zeros_like(flat),
            }
        for fragment in self.fragments():
            source.read(fragment)
        self._zero.update_lp_params()
        self.optimizer_step = source.optimizer_step

    def train(self, mode: bool) -> None:
        """Switch between training and evaluation."""
        self._engine.train(mode)
