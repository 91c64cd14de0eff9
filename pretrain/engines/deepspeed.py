"""The DeepSpeed ZeRO engine, on GPUs or CPUs.

This file corrects four things of DeepSpeed (measured with 0.19.8):
1. On a CPU it compiles an op at every start that only inference needs. This is switched off.
2. By default it keeps only the last of several ``backward`` calls before a ``step``. With
   ``managed_gradient_accumulation`` off, and fp32 accumulation and reduction, they add up.
3. It makes the fp32 masters from weights that are already rounded to bf16. ``load`` sets the
   masters from fp32 values.
4. It does not check that all ranks make the same gradients in the same order. This file does.
DeepSpeed's own checkpoints are not used. The state is read and written by parameter name,
through the address map of each parameter.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from mobilellama.config import ConfigError
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.engines.engine import Fragment, StateSource, StepReport
from mobilellama.pretrain.engines.gradient_order import GradientOrder
from mobilellama.pretrain.model import LossSums
from mobilellama.pretrain.optimizer import ParameterGroup, torch_groups
from mobilellama.pretrain.optimizers.kind import OptimizerKind


class DeepSpeedEngine:
    """``deepspeed.initialize``'s engine behind the ``Engine`` protocol."""

    def __init__(
        self,
        model: nn.Module,
        groups: list[ParameterGroup],
        *,
        config: EngineConfig,
        precision: str,
        optimizer: OptimizerKind,
        micro_batch_size: int,
        world_size: int,
    ) -> None:
        """Wrap the model; torch.distributed is already initialised."""
        import deepspeed

        # Before init_distributed, which builds the op: with ninja and g++ that took 139 s instead
        # of 13 to 17 s, and without a compiler it raises. Results are bitwise the same without it.
        # sys.modules, because "import deepspeed.comm.torch" would bind torch itself.
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
        backend = torch.distributed.get_backend()
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
        self.optimizer = optimizer
        self._engine: Any
        self._zero: Any  # DeepSpeedZeroOptimizer, or under bf16 BF16_Optimizer
        built = optimizer.build(torch_groups(groups))
        with redirect_stdout(StringIO()):  # DeepSpeed prints a page of memory figures
            self._engine, self._zero, *_ = deepspeed.initialize(
                model=model,
                optimizer=built,
                config=_settings(config, precision, optimizer, micro_batch_size),
                dist_init_required=False,
            )
        if self._zero.optimizer is not built:  # it builds torch's Adagrad anew, without the groups
            rule = (
                f"builds its own optimizer in the place of optimizer.kind = {optimizer.config.kind}"
            )
            raise ConfigError("engine.kind", "deepspeed", rule, "Use --engine.kind ddp")
        self._groups, self._world_size = groups, world_size
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._device = trained[0][1].device
        # Stage 2 reduces buckets during the backward pass, in the order of the gradients. Stage 1
        # reduces after it, in the order of the parameters.
        ordered = config.zero_stage == 2
        # Before the first backward pass, because it adds hooks. One rank has nobody to differ from.
        self._order = GradientOrder(trained, ordered=ordered) if world_size > 1 else None
        if self._order and ordered:
            self._zero.reduce_ipg_grads = self._checked(self._zero.reduce_ipg_grads)
        self.optimizer_step = 0

    def _checked(self, reduce: Callable[..., None]) -> Callable[..., None]:
        """Return ZeRO-2's function that reduces a bucket, with a check before it.

        The check compares the gradients that the ranks put into the bucket. It cannot wait for
        ``step``: with buckets of different sizes, gloo aborts and NCCL hangs.

        It costs one collective of 16 bytes and one host-device sync for each bucket and
        micro-batch. The 1.4B model has three buckets of ``bucket_elements`` = 500 million; the
        reduction itself moves 5.5 GB.
        """

        def checked(*args: Any, **kwargs: Any) -> None:
            assert self._order
            self._order.require_same(self._device)
            reduce(*args, **kwargs)

        return checked

    def forward(self, inputs: Mapping[str, Tensor], *, last: bool) -> LossSums:
        """Run the model on one micro-batch. DeepSpeed does not need to know which is the last."""
        del last
        return self._engine(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the step."""
        # DeepSpeed averages over ranks; the contract is the sum.
        self._engine.backward(loss * self._world_size)

    def step(self, lr_factor: float) -> StepReport:
        """Reduce, clip and apply the gradients.

        Raises:
            GradientOrderError: the ranks have gradients of different parameters.
        """
        # Collective and host-device sync. Before the reduction, which would add up gradients of
        # different parameters.
        if self._order:
            self._order.require_same(self._device)
        for group, ours in zip(self._zero.param_groups, self._groups, strict=True):
            group["lr"] = ours.learning_rate * lr_factor
        # Collectives: reduce the gradients, sum their norm, gather the new weights. Host-device
        # sync: the overflow check. All ranks see the same norm, so all apply or all skip.
        self._engine.step()
        applied = self._engine.was_step_applied()
        self.optimizer_step += applied
        # None only with zero_optimization.compute_grad_norm off, which _settings leaves on. A step
        # that was skipped has the norm inf.
        norm = self._engine.get_global_grad_norm()
        return StepReport(float(norm or 0.0), applied)

    def fragments(self) -> Iterator[Fragment]:
        """Yield the parts of the state that this rank's partitions hold."""
        # Not safe_get_full_optimizer_state: before the first step its fragments are not set.
        for parameter, flat, inside, place in self._addresses():
            state = self._zero.optimizer.state[flat]
            named = {key: state[key][place] for key in self.optimizer.state_names}
            yield Fragment(self._names[parameter], inside.start, flat.detach()[place], named)

    def _addresses(self) -> Iterator[tuple[nn.Parameter, Tensor, Any, slice]]:
        """Yield (parameter, flat partition, place in the parameter, place in the partition).

        A partition is an equal cut of the group's flat buffer. So one parameter can lie on two
        ranks, and a rank can hold none of it.
        """
        for parameters, flat in zip(self._working_groups, self._partitions, strict=True):
            for parameter in parameters:
                mapping: Any = getattr(parameter, "_hp_mapping")  # noqa: B009  (DeepSpeed's own)
                if mapping is not None:  # None: other ranks hold the whole parameter
                    inside, place = mapping.lp_fragment_address, mapping.hp_fragment_address
                    yield parameter, flat, inside, slice(place.start, place.start + place.numel)

    @property
    def _partitions(self) -> list[Tensor]:
        """This rank's flat fp32 masters, one for each parameter group.

        DeepSpeed has two ZeRO optimizers, which name them differently: BF16_Optimizer for stage 1
        with bf16 and fp32 accumulation, DeepSpeedZeroOptimizer for the rest.
        """
        partitions = getattr(self._zero, "fp32_groups_flat_partition", None)
        return partitions or self._zero.single_partition_of_fp32_groups

    @property
    def _working_groups(self) -> list[list[nn.Parameter]]:
        return getattr(self._zero, "bf16_groups", None) or self._zero.bit16_groups

    @torch.no_grad()
    def load(self, source: StateSource) -> None:
        """Load masters and optimizer state, then round the masters into the working weights."""
        # ZeRO gives the optimizer one flat tensor for each group, so that is what its state is kept
        # by. torch's optimizers make it in their first step only, so it is made here.
        for flat in self._partitions:
            first = self.optimizer.first_state(flat.detach(), source.optimizer_step)
            self._zero.optimizer.state[flat] = first
        for fragment in self.fragments():
            source.read(fragment)
        # Collective: each rank rounds its partition to bf16, and all ranks gather all of them.
        self._zero.update_lp_params()
        self.optimizer_step = source.optimizer_step

    def train(self, mode: bool) -> None:
        """Switch between training and evaluation."""
        self._engine.train(mode)


def _settings(
    config: EngineConfig, precision: str, optimizer: OptimizerKind, micro_batch_size: int
) -> dict[str, Any]:
    """Return DeepSpeed's config."""
    bf16 = precision == "bf16"
    settings: dict[str, Any] = {
        # DeepSpeed demands it. Only its counts of samples and its throughput depend on it.
        "train_micro_batch_size_per_gpu": micro_batch_size,
        # The loop accumulates, and has divided the loss already. A number here would make
        # DeepSpeed divide again. With managed accumulation on, only the last micro-batch
        # counts: the relative error of the gradient was .87 at 4 of them, .97 at 32.
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # Whether DeepSpeed checks bf16 gradients by default depends on its version.
        "bf16": {"enabled": bf16, "check_grad_overflow": True},
        "zero_optimization": {
            "stage": config.zero_stage,
            "reduce_bucket_size": config.bucket_elements,
            "allgather_bucket_size": config.bucket_elements,
        },
        # DeepSpeed refuses optimizers that are not on its own list. ZeRO steps flat partitions:
        # it can take any that steps each element by itself, as ours do (optimizers/kind.py).
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": optimizer.config.max_grad_norm,
        "steps_per_print": sys.maxsize,  # the loop has its own metrics
    }
    if bf16:
        # Relative error of the gradient against an fp32 sum of 32 bf16 micro-gradients:
        # .0045 by default, .0023 with fp32 accumulation, 0 with fp32 reduction too. The
        # optimizer of fp32 accumulation all-reduces the whole gradient in step and overlaps
        # nothing with the backward pass.
        settings["data_types"] = {"grad_accum_dtype": config.grad_accum_dtype}
        settings["communication_data_type"] = config.communication_dtype
    return settings
