"""Reading batches ahead of the loop, in threads; order and content are those without it."""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from mobilellama.pretrain.data import Batches, MicroBatch, StepBatch


class Prefetcher:
    """Hands out the batches of consecutive steps, each read before it is asked for."""

    def __init__(
        self, batches: Batches, *, position: int, workers: int, device: torch.device
    ) -> None:
        """Start reading.

        Args:
            batches: the stage's data.
            position: of the first step.
            workers: threads, and batches read ahead; 0 reads when asked.
            device: where the batches go.
        """
        self._batches, self._position = batches, position
        self._device = device
        # Threads: what takes long (the disk, decoding images) releases Python's lock, and processes
        # would have to copy each batch.
        self._pool = (
            ThreadPoolExecutor(workers, "prefetch", initializer=self._use_device)
            if workers
            else None
        )
        self._ahead: deque[Future[StepBatch]] = deque()
        for _ in range(workers):
            self._submit()
        self.wait_s = 0.0
        """Seconds that the loop has waited for data so far."""

    def _use_device(self) -> None:
        """Let a new thread pin memory for this process's GPU, not for the first."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    def _submit(self) -> None:
        assert self._pool is not None
        self._ahead.append(self._pool.submit(self._read, self._position))
        self._position += self._batches.num_samples(self._position)

    def _read(self, position: int) -> StepBatch:
        batch = self._batches.at(position)
        if self._device.type == "cpu":
            return batch
        # Only from pinned memory does a copy run beside the kernels. It waits in the same stream as
        # the kernels that read it, so the loop needs no sync.
        moved = [
            MicroBatch(
                inputs={
                    name: value.pin_memory().to(self._device, non_blocking=True)
                    for name, value in micro.inputs.items()
                },
                groups=micro.groups.pin_memory().to(self._device, non_blocking=True),
            )
            for micro in batch.micro_batches
        ]
        return replace(batch, micro_batches=moved)

    def next(self) -> StepBatch:
        """Return the next step's batch."""
        started_s = time.perf_counter()
        if self._pool is None:
            batch = self._read(self._position)
            self._position += batch.num_samples
        else:
            # Raises what the thread raised: a damaged shard ends the run at the step that needs it.
            batch = self._ahead.popleft().result()
            self._submit()
        self.wait_s += time.perf_counter() - started_s
        return batch

    def close(self) -> None:
        """Stop reading."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
