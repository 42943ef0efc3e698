"""Training memory of any network, counted while a training step runs on fake tensors: no GPU, a second a network.

PyTorch executes the step as it would, allocates nothing and tells every tensor that it would have made. This is the
reference that `CostModel` is held against, and what `hsnas_cost` says of networks outside the search space.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, kw_only=True)
class TracedStep:
    """What a training step needs, in bytes; the peak includes everything else.

    Attributes:
        parameters: number of parameters.
        weight_bytes: weights, gradients and momentum.
        saved_bytes: all tensors that autograd kept for the backward pass, parameters and image excepted.
        peak_bytes: the most that was allocated at any time of the step.
        peak_weight_bytes: of these, weights, momentum, and the gradients that are there at that moment.
        peak_saved_bytes: and those that autograd keeps at that moment.
    """

    parameters: int
    weight_bytes: int
    saved_bytes: int
    peak_bytes: int
    peak_weight_bytes: int
    peak_saved_bytes: int

    @property
    def peak_other_bytes(self) -> int:
        """Images, targets, and what is computed at the moment of the peak."""
        return self.peak_bytes - self.peak_weight_bytes - self.peak_saved_bytes


def trace_training_step(
    build: Callable[[], nn.Module],
    loss: Callable[[Any, Any], Tensor],
    image_shape: Sequence[int],
    target_shapes: Sequence[Sequence[int]],
    *,
    cuda_autocast: bool,
    target_dtype: torch.dtype = torch.int16,
    adam: bool = False,
) -> TracedStep:
    """Trace one step as nnU-Net trains: SGD with Nesterov momentum, clipped gradients, and on CUDA fp16 autocast.

    Weights that the step does not use have no gradient, as in a super-net, and the optimizer leaves them alone.

    Args:
        build: makes the network; its weights are fake, so nothing is initialised.
        loss: of the network's output and the targets.
        image_shape: (B, C, spatial axes).
        target_shapes: (B, 1, spatial axes) of each deep-supervision head; a single one for a network without. Regions
            have a channel each.
        cuda_autocast: count the dtypes that CUDA's fp16 autocast gives; else all is fp32, as nnU-Net does on CPU.
        target_dtype: int16 for labels, bool for regions.
        adam: count AdamW's two moments, and what its step makes beside them, in place of SGD's momentum.
    """
    memory, saved = LiveMemory(), set()
    # A device of its own, since networks may have another memory format on a CPU.
    with FakeTensorMode(), torch.device("meta"), memory:
        network = build()
        weights = list(network.parameters())
        image = torch.zeros(*image_shape)
        there_anyway = memory.storages(*weights, image)

        def pack(tensor: Tensor) -> Tensor:
            saved.update(memory.storages(tensor) - there_anyway)
            return tensor

        states = [[torch.zeros_like(weight) for weight in weights] for _ in range(2 if adam else 1)]
        targets = [torch.zeros(*shape, dtype=target_dtype) for shape in target_shapes]
        always = memory.storages(*weights, *itertools.chain(*states))
        memory.reset_peak()  # what building the network took beside it is no training
        keeping = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with keeping, _SayYes(), CudaAutocast() if cuda_autocast else contextlib.nullcontext():
            output = network(image)
            value = loss(output, targets if len(targets) > 1 else targets[0])
        value.backward()
        gradients = memory.storages(*(weight.grad for weight in weights if weight.grad is not None))
        torch.nn.utils.clip_grad_norm_(weights, 12)
        _optimizer_step(weights, states, foreach=cuda_autocast)
        parameters = sum(weight.numel() for weight in weights)
    return TracedStep(
        parameters=parameters,
        weight_bytes=(2 + len(states)) * sum(w.untyped_storage().nbytes() for w in weights),
        saved_bytes=sum(storage.size for storage in saved),
        peak_bytes=memory.peak_bytes,
        peak_weight_bytes=sum(storage.size for storage in memory.at_peak & (always | gradients)),
        peak_saved_bytes=sum(storage.size for storage in memory.at_peak & saved),
    )


def _optimizer_step(weights: Sequence[nn.Parameter], states: Sequence[Sequence[Tensor]], *, foreach: bool) -> None:
    """Take the step of SGD with momentum, or make what AdamW's step makes, whose counters fake tensors cannot have."""
    if len(states) > 1:  # AdamW, which the super-net trainer asks to work on all weights at once
        moments = [state for weight, state in zip(weights, states[-1], strict=True) if weight.grad is not None]
        torch._foreach_sqrt(moments)  # the denominators; all else happens in place
        return
    # foreach, which is torch's default on CUDA, needs a second and a third copy of the gradients.
    optimizer = torch.optim.SGD(weights, 0.01, weight_decay=3e-5, momentum=0.99, nesterov=True, foreach=foreach)
    for weight, momentum in zip(weights, states[0], strict=True):
        optimizer.state[weight]["momentum_buffer"] = momentum
    optimizer.step()


class Storage(NamedTuple):
    """One of the storages that were made, in their order; addresses are used again, numbers are not."""

    number: int
    size: int


def count_multiply_adds(build: Callable[[], nn.Module], image_shape: Sequence[int]) -> int:
    """Return the multiply-adds of a network's convolutions in one forward pass."""
    with FakeTensorMode(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build()(torch.zeros(*image_shape))
    return int(counter.get_total_flops()) // 2  # it counts a multiply-add as two


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, and their peak, while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self.at_peak: set[Storage] = set()
        self._live: dict[int, Storage] = {}  # by address
        self._made = 0

    def reset_peak(self) -> None:
        self.peak_bytes, self.at_peak = self.live_bytes, set(self._live.values())

    def storages(self, *tensors: Tensor) -> set[Storage]:
        """Return the storages of tensors that are alive."""
        return {self._live[tensor.untyped_storage()._cdata] for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, result)
        if self.live_bytes > self.peak_bytes:
            self.reset_peak()
        return result

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._live:
            self._made += 1
            self._live[storage._cdata] = Storage(self._made, storage.nbytes())
            self.live_bytes += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata)
        return tensor

    def _forget(self, address: int) -> None:
        self.live_bytes -= self._live.pop(address).size


class _SayYes(TorchFunctionMode):
    """Fake tensors have no values; a loss that asks for one is answered yes, as that some voxel is not ignored."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return True if func is Tensor.__bool__ else func(*args, **(kwargs or {}))


class CudaAutocast(TorchFunctionMode):
    """The dtypes of CUDA's fp16 autocast, for tensors that are not on a GPU (CPU's autocast has other lists).

    The functions that segmentation networks and nnU-Net's losses call, from the lists in torch's
    `aten/src/ATen/autocast_mode.h`: convolutions and linear layers run in fp16, weights are cast once and kept;
    interpolation and binary cross-entropy run in fp32; softmax, log_softmax and cross-entropy read fp16 and write fp32.
    All others, norms and activations among them, take what they get.
    """

    _LOWER = frozenset(
        {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul"}
    )

    def __init__(self) -> None:
        super().__init__()
        self._casts: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in self._LOWER:
            args = [self._lower(value) for value in args]
            kwargs = {key: self._lower(value) for key, value in kwargs.items()}
        elif name in ("interpolate", "binary_cross_entropy_with_logits"):
            args = (args[0].float(), *args[1:])
        elif name in ("softmax", "log_softmax") and args[0].dtype == torch.float16:
            # As CUDA's kernels do it, without an fp32 copy of what they read.
            kernel = torch._softmax if name == "softmax" else torch._log_softmax
            return kernel(args[0], kwargs["dim"] if "dim" in kwargs else args[1], True)
        elif name == "cross_entropy" and args[0].dtype == torch.float16:
            log_probabilities = torch._log_softmax(args[0], 1, True)
            return torch._C._nn.nll_loss_nd(log_probabilities, args[1], kwargs.get("weight"), 1, kwargs["ignore_index"])
        return func(*args, **kwargs)

    def _lower(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.requires_grad and value.is_leaf):
            return value.to(torch.float16)
        if id(value) not in self._casts:
            self._casts[id(value)] = value.to(torch.float16)
        return self._casts[id(value)]

    def __exit__(self, *exception: Any) -> None:
        self._casts.clear()
        super().__exit__(*exception)
