"""How a run is told to stop: the loop notes signals and heeds them after a step, its data workers leave them to it."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


logger = logging.getLogger(__name__)

WORKER_GRACE = 120
"""Seconds after SIGTERM in which a data worker still hands out what it is asked for: longer than the data of a step take."""


@contextmanager
def catch_signals(received: list[int], num_processes: int) -> Iterator[None]:
    """Collects SIGTERM and SIGINT in `received` instead of dying of them; the loop looks after every step.

    A second Ctrl-C interrupts at once, but not under a launcher, which forwards the first one again.
    """

    def note(number: int, frame) -> None:
        if number == signal.SIGINT and received and num_processes == 1:
            raise KeyboardInterrupt
        received.append(number)  # first: the next signal may come while this one is told of
        if len(received) == 1:
            logger.info(f"{signal.Signals(number).name} received: finishing the step, saving, then exiting.")

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def is_of_a_dead_worker(error: Exception) -> bool:
    """Whether a process that loads data was killed, perhaps by the system for want of memory: torch tells by a `RuntimeError`, wherever
    the main process is. What a worker itself raised reads otherwise."""
    return str(error).startswith("DataLoader worker (pid")


def leave_signals_to_the_main_process(worker: int, grace: int = WORKER_GRACE) -> None:
    """Ctrl-C, torchrun's SIGTERM and SLURM's reach the whole group: the loop decides, and workers end with their loader.

    A worker that is still there `grace` seconds after SIGTERM is one that nobody ends: Python terminates its children before it exits
    and would wait for ever. It leaves with 0, which torch does not take for a failure.
    """

    def leave_later(number: int, frame) -> None:
        if not signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.alarm(grace)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):  # not on Windows, where no launcher passes SIGTERM on
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
        signal.signal(signal.SIGTERM, leave_later)
