"""What a training step costs: its time, beside others in turn, and the bytes that it keeps for its backward pass."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)
Step = Callable[[], object]

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}


def add_timing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how often, where and in which precision steps are timed."""
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each network [%(default)s]")
    parser.add_argument("--device", default="cpu", help="[%(default)s]")
    parser.add_argument("--autocast", choices=PRECISIONS, help="[off: fp32]")


def seconds_in_turn(
    steps: Mapping[Key, Callable[[], Step]], repeats: int, device: torch.device, *, wall: bool = False
) -> dict[Key, list[float]]:
    """Time each step so many times, one after the other and again: a busy machine slows all of them.

    On a CPU the time is that of the process, from which other processes take nothing; with one thread and on an idle
    machine it is the wall's.

    Args:
        steps: each prepares, which is not timed, and returns what is timed.
        repeats: after one round that warms up.
        device: where they run.
        wall: take the wall's time anyway, as where a step has several threads.
    """
    clock = time.process_time if device.type == "cpu" and not wall else time.perf_counter
    seconds: dict[Key, list[float]] = {key: [] for key in steps}
    for repeat in range(1 + repeats):
        for key, prepare in steps.items():
            step = prepare()
            _synchronise(device)
            start = clock()
            step()
            _synchronise(device)
            if repeat:
                seconds[key].append(clock() - start)
    return seconds


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def saved_bytes(forward: Callable[[], Tensor], own: Iterable[Tensor]) -> int:
    """Take a step; return the bytes that its forward pass keeps for backward, each storage once.

    Args:
        forward: returns a loss.
        own: image, parameters and buffers, which do not count; copies of weights in half precision, which autocast
            makes, do.
    """
    kept: WeakSet[_Saved] = WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor)
        kept.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        loss = forward()
    # Read when forward is over: what a branch that leads nowhere had saved is gone by then.
    sizes = {storage.data_ptr(): storage.nbytes() for storage in (s.tensor.untyped_storage() for s in kept)}
    for tensor in own:
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    loss.backward()
    return sum(sizes.values())


class _Saved:
    """A tensor saved for backward; the graph is all that holds it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # a saved result would hold the graph that holds it
