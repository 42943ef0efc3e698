"""The same for many files, in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from nnunet_hypersegnas.errors import HyperSegNASError

Job = TypeVar("Job")
Result = TypeVar("Result")


class PoolError(HyperSegNASError):
    """A process that worked on a file is dead."""


def in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], processes: int, on_done: Callable[[], object]
) -> list[Result]:
    """Return the function's results in the order of the jobs.

    Args:
        function: can be pickled, as jobs and results can.
        jobs: what it is called with.
        processes: how many; with one, nothing but this process runs.
        on_done: called after each job.

    Raises:
        PoolError: the system has ended one of the processes.
    """
    results: dict[int, Result] = {}
    if min(processes, len(jobs)) <= 1:
        for number, job in enumerate(jobs):
            results[number] = function(job)
            on_done()
    else:
        with ProcessPoolExecutor(min(processes, len(jobs)), multiprocessing.get_context("spawn")) as pool:
            futures = {pool.submit(function, job): number for number, job in enumerate(jobs)}
            try:
                for future in as_completed(futures):
                    results[futures[future]] = future.result()
                    on_done()
            except BrokenProcessPool as error:
                raise PoolError(
                    f"the system ended one of {processes} processes that read these files, for want of memory it "
                    "seems; take fewer of them with -np"
                ) from error
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [results[number] for number in range(len(jobs))]
