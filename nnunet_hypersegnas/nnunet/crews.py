"""Those who work for a search: processes on this machine or jobs of a cluster, each of them `hsnas_search --join`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.gpus import variables_for, visible_gpus
from nnunet_hypersegnas.nnunet.slurm import slurm_executor, slurm_function
from nnunet_hypersegnas.search import WorkerId

MOST_FAILURES = 3  # workers that end with an error before any evaluation is finished
MOST_KILLED = 30  # workers that are killed before any evaluation is finished
SECONDS_TO_END = 5.0


class CrewError(HyperSegNASError):
    """Workers that cannot be started, or never get anything done."""


class Crew(Protocol):
    """Workers of a search."""

    def watch(self, done: int) -> None:
        """Start the workers the first time, then replace those that ended.

        Args:
            done: evaluations that were finished so far.

        Raises:
            CrewError: they end again and again, and nothing gets done.
        """

    def make_room(self) -> list[WorkerId]:
        """Give back what workers hold of this machine's devices, as `end`; `watch` starts them again."""

    def end(self) -> list[WorkerId]:
        """End all workers, within seconds, and name those that were processes of this machine."""


class LocalCrew:
    """Worker processes on this machine: one for each GPU, or several that have a CPU core each.

    Args:
        command: runs a worker.
        workers: how many.
        device: "cuda" or "cpu".
        logs: folder for what they print.
    """

    def __init__(self, command: Sequence[str], workers: int, device: str, logs: Path) -> None:
        self.command, self.workers, self.device, self.logs = (
            [*command, "--parent", str(os.getpid())],
            workers,
            device,
            logs,
        )
        self._processes: dict[int, subprocess.Popen] = {}
        self._done = self._failed = self._killed = 0

    def watch(self, done: int) -> None:
        if done > self._done:
            self._done, self._failed, self._killed = done, 0, 0
        for number in range(self.workers):
            process = self._processes.get(number)
            if process is None:
                self._processes[number] = self._start(number)
            elif process.poll() is not None:
                self._end_children(process)
                self._count(number, process.returncode)
                self._processes[number] = self._start(number)

    def make_room(self) -> list[WorkerId]:
        return self.end()

    def end(self) -> list[WorkerId]:
        processes = list(self._processes.values())
        for process in processes:
            self._signal(process, signal.SIGTERM)
        until = time.monotonic() + SECONDS_TO_END
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            self._end_children(process)
            process.wait()
        self._processes = {}
        machine = WorkerId.of_this_process().machine
        return [WorkerId(machine, process.pid) for process in processes]

    def _start(self, number: int) -> subprocess.Popen:
        self.logs.mkdir(parents=True, exist_ok=True)
        with self._log(number).open("ab") as log:
            return subprocess.Popen(
                self.command,
                env={**os.environ, **self._environment(number)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the process that leads
            )

    def _environment(self, number: int) -> dict[str, str]:
        if self.device == "cuda":
            gpus = visible_gpus()
            return variables_for(gpus[number % len(gpus)], self.workers)
        return {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": os.environ.get("nnUNet_n_proc_DA", "0")}

    def _log(self, number: int) -> Path:
        return self.logs / f"worker_{number}.log"

    def _count(self, number: int, code: int) -> None:
        if code < 0:
            self._killed += 1
        elif code > 0:
            self._failed += 1
        if self._failed >= MOST_FAILURES or self._killed >= MOST_KILLED:
            lines = self._log(number).read_text(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
            how = "ended with an error" if code > 0 else "was killed (for want of memory?)"
            raise CrewError(
                f"worker {number} {how} again and again, and nothing gets done: {last} (log: {self._log(number)})"
            )

    def _end_children(self, process: subprocess.Popen) -> None:
        """Processes that prepare batches outlive a worker that was killed."""
        self._signal(process, signal.SIGKILL)

    @staticmethod
    def _signal(process: subprocess.Popen, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


class SlurmCrew:
    """Workers as a job array of SLURM, by submitit; jobs that reach their time limit are submitted again.

    Args:
        command: runs a worker.
        workers: how many jobs.
        parameters: of the jobs, as sbatch names them, such as partition, time or gres; cluster=local makes them
            processes of this machine.
        logs: folder for what submitit writes and the jobs print.

    Raises:
        SlurmError: submitit is not installed, SLURM not here, or it does not know a parameter.
    """

    def __init__(self, command: Sequence[str], workers: int, parameters: Mapping[str, str], logs: Path) -> None:
        self.workers = workers
        self._executor = slurm_executor("hsnas_search", parameters, logs)
        self._function = slurm_function(command)
        self._jobs: list[Any] = []
        self._done = self._ended = 0

    def watch(self, done: int) -> None:
        if done > self._done:
            self._done, self._ended = done, 0
        ended = [job for job in self._jobs if job.done()]
        self._ended += len(ended)
        if ended and self._ended >= MOST_FAILURES * self.workers:
            raise CrewError(f"jobs end again and again, and nothing gets done; see {ended[-1].paths.stderr}")
        self._jobs = [job for job in self._jobs if job not in ended]
        if missing := self.workers - len(self._jobs):
            with self._executor.batch():  # one job array
                new = [self._executor.submit(self._function) for _ in range(missing)]
            self._jobs += new

    def make_room(self) -> list[WorkerId]:
        return []  # jobs have devices of their own

    def end(self) -> list[WorkerId]:
        for job in self._jobs:
            job.cancel(check=False)
        self._jobs = []
        return []


class NoCrew:
    """Only those work who join by themselves."""

    def watch(self, done: int) -> None:
        pass

    def make_room(self) -> list[WorkerId]:
        return []

    def end(self) -> list[WorkerId]:
        return []
