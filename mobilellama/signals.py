"""Ctrl-C is the parent's: it ends its workers, which leave what they had finished."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Block SIGINT; processes that are started meanwhile have it blocked from their first moment.

    A Ctrl-C that comes meanwhile reaches this process at the end.
    """
    # The tracker, which the first start would bring up, would lift the mask.
    resource_tracker.ensure_running()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
