"""The --device flag that commands share."""

from __future__ import annotations

from nnunet_hypersegnas.errors import HyperSegNASError


def chosen_device(asked: str | None) -> str:
    """Return "cuda" or "cpu": what was asked for, else CUDA where there is a GPU.

    Raises:
        HyperSegNASError: CUDA was asked for and torch finds no GPU.
    """
    import torch  # late: it takes seconds that --help need not wait for

    if asked == "cuda" and not torch.cuda.is_available():
        raise HyperSegNASError("--device cuda was asked for, torch finds no GPU; use --device cpu")
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")
