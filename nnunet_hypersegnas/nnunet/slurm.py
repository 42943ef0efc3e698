"""Jobs of SLURM, by submitit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_hypersegnas.errors import HyperSegNASError


class SlurmError(HyperSegNASError):
    """SLURM or submitit is not here, or they do not know a parameter."""


def slurm_executor(name: str, parameters: Mapping[str, str], logs: Path) -> Any:
    """Return submitit's executor.

    Args:
        name: of the jobs.
        parameters: as sbatch names them, such as partition, time or gres; cluster=local makes the jobs processes of
            this machine.
        logs: folder for what submitit writes and the jobs print.

    Raises:
        SlurmError: submitit is not installed, SLURM not here, or it does not know a parameter.
    """
    submitit = _submitit()
    settings = {f"slurm_{key}": _number(value) for key, value in parameters.items() if key != "cluster"}
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=parameters.get("cluster", "slurm"))
        executor.update_parameters(name=name, **settings)
    except (RuntimeError, NameError, ValueError, TypeError) as error:
        raise SlurmError(
            f"--slurm {' '.join(f'{k}={v}' for k, v in parameters.items())}: {' '.join(str(error).split())}"
        ) from error
    return executor


def slurm_function(command: Sequence[str]) -> Any:
    """Return a command as what submitit submits.

    Raises:
        SlurmError: submitit is not installed.
    """
    return _submitit().helpers.CommandFunction(list(command), verbose=False)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise SlurmError("--slurm needs submitit: pip install 'nnunet_hypersegnas[slurm]'") from error
    return submitit


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
