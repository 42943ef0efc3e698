"""The most memory that training a super-net may take: from the settings, or what its GPU has free at the start."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nnunet_hypersegnas.cost import CostModel, TrainingSetup, format_bytes, parse_bytes
from nnunet_hypersegnas.cost.nvml import NvmlError, process_bytes
from nnunet_hypersegnas.nnunet.cost_models import training_setup
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting, memory_counting
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.super_net_memory import MemoryLimitError, SuperNetMemory
from nnunet_hypersegnas.space import SearchSpace, largest, to_codes

ROUNDED_TO = 256_000_000  # bytes


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """Which sub-nets may be drawn. It is part of a checkpoint, so that a continued training draws the same.

    Attributes:
        limit_bytes: as the device counts them; None where all may be drawn.
        memory: predicts a step's; None where there is no limit.
        origin: where the limit comes from, for the log.
    """

    limit_bytes: float | None
    memory: SuperNetMemory | None
    origin: str

    @classmethod
    def none(cls) -> MemoryLimit:
        return cls(limit_bytes=None, memory=None, origin="no limit")

    @classmethod
    def at_start(
        cls, dataset: PreprocessedDataset, space: SearchSpace, settings: SuperNetSettings, device: torch.device
    ) -> MemoryLimit:
        """Settle the limit of a training that begins; the same on all ranks.

        Raises:
            MemoryLimitError: too few sub-nets can be trained within it, or sandwich steps cannot.
        """
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        if settings.memory_limit is not None:
            limit_bytes, origin = float(parse_bytes(settings.memory_limit)), "memory_limit of the settings"
        elif device.type == "cuda" and not settings.recompute:
            limit_bytes, origin = _free_on_all(device), "what is free on the GPU"
        else:
            return cls.none()
        setup = training_setup(dataset, device.type)
        memory = SuperNetMemory.of(
            dataset, space, settings, setup, memory_counting(dataset, CostModel(space, setup), device.type), ranks
        )
        memory.check(limit_bytes)
        if settings.sandwich_every and not memory.fits(limit_bytes)(to_codes([largest(space)])).all():
            raise MemoryLimitError(
                f"sandwich_every trains the largest network, which does not fit {format_bytes(round(limit_bytes))}; "
                "set it to 0, or raise memory_limit"
            )
        return cls(limit_bytes=limit_bytes, memory=memory, origin=origin)

    @property
    def fits(self) -> Any:
        """Says of codes which of their sub-nets may be drawn; None where all may."""
        if self.memory is None or self.limit_bytes is None:
            return None
        return self.memory.fits(self.limit_bytes)

    def line(self) -> str:
        """Return a line for the log."""
        if self.memory is None or self.limit_bytes is None:
            return "Memory of the super-net's training is not limited: every sub-net may be drawn"
        densest = self.memory.warmup_bytes
        warmup = "all edges" if densest <= self.limit_bytes else "the densest sub-nets that fit"
        return (
            f"Memory limit {format_bytes(round(self.limit_bytes))} ({self.origin}): "
            f"{self.memory.fitting(self.limit_bytes):.1%} of the sub-nets drawn fit, the others are drawn again; the "
            f"warm-up trains {warmup} (all edges take {format_bytes(round(densest))})"
        )

    def to_json(self) -> dict[str, Any] | None:
        """Return what a checkpoint keeps: all that decides which sub-nets are drawn."""
        if self.memory is None:
            return None
        return {
            "limit_bytes": self.limit_bytes,
            "origin": self.origin,
            "setup": vars(self.memory.setup).copy(),
            "parameters": self.memory.parameters,
            "man_bytes": self.memory.man_bytes,
            "optimizer": self.memory.optimizer,
            "counting": vars(self.memory.counting).copy(),
            "ranks": self.memory.ranks,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None, space: SearchSpace) -> MemoryLimit:
        """Read what `to_json` gives.

        Raises:
            KeyError, TypeError: it is something else.
        """
        if value is None:
            return cls.none()
        memory = SuperNetMemory(
            space=space,
            setup=TrainingSetup(**{**value["setup"], "patch_size": tuple(value["setup"]["patch_size"])}),
            parameters=value["parameters"],
            man_bytes=value["man_bytes"],
            optimizer=value["optimizer"],
            counting=MemoryCounting(**value["counting"]),
            ranks=value["ranks"],
        )
        return cls(limit_bytes=value["limit_bytes"], memory=memory, origin=value["origin"])


def _free_on_all(device: torch.device) -> float:
    """Return the bytes that this training can have of the device, or of the fullest of those that train together."""
    free = torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(NvmlError):
        free += process_bytes(device)  # CUDA's context, which is there by now, is counted as the training's
    least = torch.tensor([free], dtype=torch.float64, device=device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
    # Rounded, so that runs on a card that is free draw the same.
    return float(least.item() // ROUNDED_TO * ROUNDED_TO)
