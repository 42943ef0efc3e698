"""What our own training steps cost; prints Markdown tables.

    python -m benchmarks.steps supernet --space small    # a super-net's step beside its sub-net's own
    python -m benchmarks.steps limit --space small       # the share of a step that its convolutions take
    python -m benchmarks.steps layout --space small      # the memory format that networks choose, and the default
    python -m benchmarks.steps fusion                    # convolutions that leave a node, one by one and as one
    python -m benchmarks.steps recompute --space small   # layers recomputed in the backward pass

A step is what nnU-Net does in one: zero_grad, forward with all heads, loss, backward, gradient clipping, optimizer.
The loss is the cheapest there is, the mean square of the logits, so that nothing hides what is compared. Networks take
turns.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.spaces import SPACES
from benchmarks.step_costs import PRECISIONS, Step, add_timing_arguments, saved_bytes, seconds_in_turn
from benchmarks.tables import median_of, ratios, section, table
from nnunet_hypersegnas.architectures import OneShotNetwork, SearchedNet, operations, searched_net_kwargs
from nnunet_hypersegnas.nnunet.optimizers import make_optimizer
from nnunet_hypersegnas.space import Architecture, SearchSpace, largest, rng_for, sample, u_net
from nnunet_hypersegnas.trainers.optimizers import JointOptimizer

IMAGE_CHANNELS, CLASSES = 1, 3
CLIP = 12  # nnU-Net's largest norm of the gradient
TWICE = "recomputed"
SUPER_NET, WITHOUT_MAN, ALONE = "super-net with MAN", "super-net, MAN removed", "sub-net alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--space", choices=SPACES, default="paper", help="[%(default)s]")
    parser.add_argument("--sampled", type=int, default=10, help="architectures drawn from the space [%(default)s]")
    parser.add_argument("--patch", type=int, nargs=3, help="[64 64 64, or 24 40 24 in the small space]")
    parser.add_argument("--batch", type=int, default=2, help="[%(default)s]")
    add_timing_arguments(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True  # as nnU-Net trains
    device = torch.device(args.device)
    title, part = PARTS[args.part]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else args.device
    with section(f"{title} ({args.autocast or 'fp32'} on {name}, {args.repeats} repeats)"):
        part(Bench(device, PRECISIONS.get(args.autocast), args.repeats), args)


# Steps


@dataclass(frozen=True)
class Bench:
    """Where and how often steps are timed."""

    device: torch.device
    autocast: torch.dtype | None
    repeats: int

    def image(self, batch: int, patch: Sequence[int]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, IMAGE_CHANNELS, *patch, generator=generator).to(self.device)

    def medians(self, steps: Mapping[str, Callable[[], Step]]) -> dict[str, float]:
        seconds = seconds_in_turn(steps, self.repeats, self.device)
        return {name: statistics.median(values) for name, values in seconds.items()}

    def loss(self, network: nn.Module, image: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            logits = network(image)
        return torch.stack([one.float().square().mean() for one in logits]).sum()

    def saved(self, network: nn.Module, image: Tensor) -> int:
        return saved_bytes(lambda: self.loss(network, image), (image, *network.parameters(), *network.buffers()))


class Training:
    """A network with nnU-Net's optimizer, and MAN with its own."""

    def __init__(self, bench: Bench, network: nn.Module) -> None:
        self.bench, self.network = bench, network
        # The same for both, so that ratios are of the networks; a super-net's trainer takes AdamW by default.
        is_super_net = isinstance(network, OneShotNetwork)
        weights = network.super_net if is_super_net else network
        optimizers: dict[str, torch.optim.Optimizer] = {
            "network": torch.optim.SGD(
                weights.parameters(),
                0.01,
                weight_decay=3e-5,
                momentum=0.99,
                nesterov=True,
                foreach=is_super_net or None,
            )
        }
        if is_super_net and network.man is not None:
            optimizers["man"] = make_optimizer("AdamW", network.man, 0.001, 3e-5)
        self.optimizer = JointOptimizer(optimizers)

    def step(self, image: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.bench.loss(self.network, image).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()


def alone(bench: Bench, space: SearchSpace, architecture: Architecture, *, recompute: bool = False) -> Training:
    kwargs = searched_net_kwargs(space, architecture)
    network = SearchedNet(IMAGE_CHANNELS, CLASSES, deep_supervision=True, recompute=recompute, **kwargs)
    network.to(bench.device)
    return Training(bench, network)


def one_shot(bench: Bench, space: SearchSpace, patch: Sequence[int]) -> Training:
    network = OneShotNetwork(space, IMAGE_CHANNELS, CLASSES, patch, deep_supervision=True).to(bench.device)
    return Training(bench, network)


def of_sub_net(training: Training, architecture: Architecture, annealing: float, image: Tensor) -> Callable[[], Step]:
    """Return what prepares a super-net's step with a sub-net."""

    def prepare() -> Step:
        training.network.take(architecture, annealing)
        return lambda: training.step(image)

    return prepare


def sampled(space: SearchSpace, count: int) -> list[Architecture]:
    rng = rng_for(0, "benchmark", "steps")
    return [sample(space, rng) for _ in range(count)]


# Parts


def supernet(bench: Bench, args: argparse.Namespace) -> None:
    """Compare a super-net's steps with those of the same sub-nets alone."""
    space, patch, image = _space_of(bench, args)
    training = one_shot(bench, space, patch)
    rows = []
    for name, architectures in _groups(space, args.sampled).items():
        times, saved = [], []
        for architecture in architectures:
            own = alone(bench, space, architecture)
            turns = {
                SUPER_NET: of_sub_net(training, architecture, 0.0, image),
                WITHOUT_MAN: of_sub_net(training, architecture, 1.0, image),
                ALONE: lambda own=own: lambda: own.step(image),
            }
            times.append(bench.medians(turns))
            kept = {ALONE: bench.saved(own.network, image)}
            for key, annealing in ((SUPER_NET, 0.0), (WITHOUT_MAN, 1.0)):
                training.network.take(architecture, annealing)
                kept[key] = bench.saved(training.network, image)
            saved.append(kept)
        rows += [_beside_alone(name, key, times, saved) for key in (SUPER_NET, WITHOUT_MAN)]
    table(rows)
    print(f"\n{_described(args, patch)}. Median (lowest to highest) over architectures.")


def _beside_alone(
    group: str, key: str, times: Sequence[Mapping[str, float]], saved: Sequence[Mapping[str, int]]
) -> dict[str, str]:
    return {
        "sub-net": group,
        "step of": key,
        "ms": median_of([t[key] * 1e3 for t in times]),
        "alone (ms)": median_of([t[ALONE] * 1e3 for t in times]),
        "time ratio": ratios([t[key] / t[ALONE] for t in times]),
        "saved (MB)": median_of([s[key] / 1e6 for s in saved]),
        "bytes ratio": ratios([s[key] / s[ALONE] for s in saved]),
    }


def limit(bench: Bench, args: argparse.Namespace) -> None:
    """Say how much of forward and backward the bare convolutions take, and what arithmetic a device does meanwhile."""
    space, patch, image = _space_of(bench, args)
    rows = []
    peak = _matrix_product_flops(bench)
    for name, architectures in _groups(space, args.sampled).items():
        shares, speeds = [], []
        for architecture in architectures:
            own = alone(bench, space, architecture)
            convolutions = BareConvolutions.of(bench, own.network, image)
            times = bench.medians(
                {
                    "network": lambda own=own: lambda: bench.loss(own.network, image).backward(),
                    "convolutions": lambda c=convolutions: c.step,
                    "step": lambda own=own: lambda: own.step(image),
                }
            )
            shares.append((times["convolutions"] / times["network"], times["convolutions"] / times["step"]))
            speeds.append(convolutions.flops / times["step"])
        rows.append(
            {
                "sub-net": name,
                "convolutions / (forward + backward)": ratios([share for share, _ in shares]),
                "convolutions / step": ratios([share for _, share in shares]),
                "GFLOP/s of the step": median_of([speed / 1e9 for speed in speeds]),
                "of a matrix product's": ratios([speed / peak for speed in speeds]),
            }
        )
    table(rows)
    print(
        f"\n{_described(args, patch)}. Convolutions: those of the network back to back, "
        "forward and backward, on maps of the same shapes and formats. FLOP: a multiplication or an addition; a "
        f"large matrix product reaches {peak / 1e9:,.0f} GFLOP/s here in the same precision."
    )


class BareConvolutions:
    """A network's convolutions, forward and backward, with nothing between them."""

    def __init__(self, bench: Bench, calls: Sequence[tuple[nn.Module, Tensor, Tensor]]) -> None:
        self.bench, self.calls = bench, calls
        # Forward one product; backward two of the same size, but for maps that need no gradient.
        self.flops = sum(
            2 * gradient.numel() * module.weight[0].numel() * (3 if x.requires_grad else 2)
            for module, x, gradient in calls
        )

    @classmethod
    def of(cls, bench: Bench, network: nn.Module, image: Tensor) -> BareConvolutions:
        calls: list[tuple[nn.Module, Tensor, Tensor]] = []

        def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x = inputs[0]
            calls.append((module, x.detach().clone().requires_grad_(x.requires_grad), torch.ones_like(output)))

        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
        handles = [module.register_forward_hook(record) for module in convolutions]
        bench.loss(network, image)
        for handle in handles:
            handle.remove()
        return cls(bench, calls)

    def step(self) -> None:
        autocast = self.bench.autocast
        with torch.autocast(self.bench.device.type, autocast, enabled=autocast is not None):
            outputs = [module(x) for module, x, _ in self.calls]
        for output, (_, _, gradient) in zip(reversed(outputs), reversed(self.calls), strict=True):
            output.backward(gradient)
        for module, x, _ in self.calls:
            module.weight.grad = x.grad = None


def _matrix_product_flops(bench: Bench) -> float:
    """Return what a large matrix product reaches, in FLOP/s."""
    size = 1024 if bench.device.type == "cpu" else 8192
    a = torch.randn(size, size, device=bench.device, dtype=bench.autocast or torch.float32)
    seconds = bench.medians({"product": lambda: lambda: a @ a})["product"]
    return 2 * size**3 / seconds


def fusion(bench: Bench, args: argparse.Namespace) -> None:
    """Compare a node's convolutions at equal stride, to its own scale and up, with one that has all their outputs."""
    space, patch, _ = _space_of(bench, args)
    rows = []
    for scale in range(1, space.n_scales):
        channels, finer = space.channels[scale], space.channels[scale - 1]
        size = [s // step for s, step in zip(patch, space.cumulative_strides[scale], strict=True)]
        x = operations.in_fast_layout(torch.randn(args.batch, channels, *size, device=bench.device)).requires_grad_()
        weights = [
            torch.randn(c, channels, 3, 3, 3, device=bench.device, requires_grad=True) for c in (channels, finer)
        ]
        times = bench.medians(
            {
                "two": lambda x=x, w=weights: lambda: _convolved(bench, x, w),
                "one": lambda x=x, w=weights: lambda: _convolved(bench, x, [torch.cat(w)]),
            }
        )
        rows.append(
            {
                "channels": f"{channels} to {channels} and {finer}",
                "map": _x(size),
                "two convolutions (ms)": f"{1e3 * times['two']:.2f}",
                "as one (ms)": f"{1e3 * times['one']:.2f}",
                "ratio": f"{times['one'] / times['two']:.2f}",
            }
        )
    table(rows)


def _convolved(bench: Bench, x: Tensor, weights: Sequence[Tensor]) -> None:
    with torch.autocast(bench.device.type, bench.autocast, enabled=bench.autocast is not None):
        outputs = [F.conv3d(x, weight, padding=1) for weight in weights]
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])


def layout(bench: Bench, args: argparse.Namespace) -> None:
    """Compare steps in the memory format that networks choose with those in the default one."""
    space, patch, image = _space_of(bench, args)
    times = []
    for architecture in sampled(space, args.sampled):
        own = alone(bench, space, architecture)
        chosen = operations.in_fast_layout
        turns = {
            "chosen": _with_layout(own, image, chosen),
            "default": _with_layout(own, image, lambda x: x),
        }
        times.append(bench.medians(turns))
        operations.in_fast_layout = chosen
    table(
        [
            {
                "memory format": key,
                "step (ms)": median_of([1e3 * t[key] for t in times]),
                "time ratio": ratios([t[key] / t["default"] for t in times]),
            }
            for key in ("default", "chosen")
        ]
    )
    print(f"\n{_described(args, patch)}, {args.sampled} random architectures.")


def _with_layout(own: Training, image: Tensor, layout: Callable[[Tensor], Tensor]) -> Callable[[], Step]:
    def prepare() -> Step:
        operations.in_fast_layout = layout
        return lambda: own.step(image)

    return prepare


def recompute(bench: Bench, args: argparse.Namespace) -> None:
    """Compare steps that recompute layers with those that keep everything."""
    space, patch, image = _space_of(bench, args)
    rows = []
    for name, architectures in _groups(space, args.sampled).items():
        times, saved = [], []
        for architecture in architectures:
            both = {key: alone(bench, space, architecture, recompute=key == TWICE) for key in ("kept", TWICE)}
            times.append(bench.medians({key: lambda own=own: lambda: own.step(image) for key, own in both.items()}))
            saved.append({key: bench.saved(own.network, image) for key, own in both.items()})
        rows.append(
            {
                "sub-net": name,
                "step (ms)": median_of([1e3 * t["kept"] for t in times]),
                "recomputed (ms)": median_of([1e3 * t[TWICE] for t in times]),
                "time ratio": ratios([t[TWICE] / t["kept"] for t in times]),
                "saved (MB)": median_of([s["kept"] / 1e6 for s in saved]),
                "recomputed, saved (MB)": median_of([s[TWICE] / 1e6 for s in saved]),
                "bytes ratio": ratios([s[TWICE] / s["kept"] for s in saved]),
            }
        )
    table(rows)
    print(f"\n{_described(args, patch)}. Median (lowest to highest) over architectures.")


def _groups(space: SearchSpace, count: int) -> dict[str, list[Architecture]]:
    return {f"sampled ({count})": sampled(space, count), "U-Net": [u_net(space)], "largest": [largest(space)]}


def _space_of(bench: Bench, args: argparse.Namespace) -> tuple[SearchSpace, tuple[int, ...], Tensor]:
    space, patch = SPACES[args.space]
    patch = tuple(args.patch or patch)
    return space, patch, bench.image(args.batch, patch)


def _described(args: argparse.Namespace, patch: Sequence[int]) -> str:
    return f"{args.space} space, patch {_x(patch)}, batch {args.batch}"


def _x(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


PARTS: dict[str, tuple[str, Callable[[Bench, argparse.Namespace], None]]] = {
    "supernet": ("A super-net's step beside its sub-net's own", supernet),
    "limit": ("The share of the convolutions", limit),
    "layout": ("Memory formats", layout),
    "fusion": ("Convolutions that leave a node, one by one and as one", fusion),
    "recompute": ("Layers recomputed in the backward pass", recompute),
}


if __name__ == "__main__":
    main()
