"""Reading batches ahead of the loop, in threads; order and content are those without it."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from mobilellama.pretrain.data import Batches, MicroBatch, StepBatch

Item = TypeVar("Item")


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
            ThreadPoolExecutor(workers, "prefetch", initializer=use_device, initargs=(device,))
            if workers
            else None
        )
        self._ahead: deque[Future[StepBatch]] = deque()
        for _ in range(workers):
            self._submit()
        self.wait_s = 0.0
        """Seconds that the loop has waited for data so far."""

    def _submit(self) -> None:
        assert self._pool is not None
        self._ahead.append(self._pool.submit(self._read, self._position))
        self._position += self._batches.num_samples(self._position)

    def _read(self, position: int) -> StepBatch:
        batch = self._batches.at(position)
        moved = [
            MicroBatch(
                inputs=on_device(micro.inputs, self._device),
                groups=on_device({"groups": micro.groups}, self._device)["groups"],
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


def use_device(device: torch.device) -> None:
    """Let a new thread pin memory for this process's GPU, not for the first."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def on_device(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return tensors on a device. The CPU does not wait for the copies.

    Only from pinned memory does a copy run beside the kernels. It waits in the same stream as the
    kernels that read it, so nobody needs a sync.
    """
    if device.type == "cpu":
        return dict(inputs)
    return {
        name: value.pin_memory().to(device, non_blocking=True) for name, value in inputs.items()
    }


def read_in_order(
    read: Callable[[Item], Mapping[str, Tensor]],
    items: Iterable[Item],
    *,
    device: torch.device,
    ahead: int = 2,
) -> Generator[dict[str, Tensor], None, None]:
    """Yield what is read of each item, on a device, while a thread reads so many items ahead.

    Close the iterator where it is left early: the thread ends with it.
    """

    def of(item: Item) -> dict[str, Tensor]:
        return on_device(read(item), device)

    left = iter(items)
    pool = ThreadPoolExecutor(1, "read-ahead", initializer=use_device, initargs=(device,))
    try:
        waiting = deque(pool.submit(of, item) for item in islice(left, ahead))
        while waiting:
            done = waiting.popleft()
            waiting.extend(pool.submit(of, item) for item in islice(left, 1))
            yield done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
