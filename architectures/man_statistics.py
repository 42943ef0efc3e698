"""How alive MAN is: what its scalars look like in each layer, and how much they depend on what it is told.

Scalars are those of training, relative to the paper's fixed 0.5 and so in (0, 2): twice the sigmoids of Eq. 4. Always
all c_tot of them are looked at, both operations of every edge, so that those of different architectures compare.

Shapes: N c_tot, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nnunet_hypersegnas.architectures.man import EveryRow, MetaAssistantNetwork
from nnunet_hypersegnas.space import Architecture, SearchSpace, rng_for, sample

COLLAPSED_SPREAD = 0.002  # of scalars in (0, 2): below it, MAN gives every image, or every architecture, the same ones
SATURATED = 0.02  # a sigmoid so near to 0 or 1 has less than a twelfth of its largest gradient
MOST_SATURATED = 0.5  # of a layer's scalars
N_SPREAD_ARCHITECTURES = 8


def spread_architectures(space: SearchSpace, seed: int) -> list[Architecture]:
    """Return the sub-nets that the spread over architectures is taken of: always the same for a training's seed."""
    rng = rng_for(seed, "spread architecture")
    return [sample(space, rng) for _ in range(N_SPREAD_ARCHITECTURES)]


def all_scalars(man: MetaAssistantNetwork, images: Tensor, architecture: Architecture) -> Tensor:
    """Return all scalars of MAN, in (0, 2), without gradients.

    Args:
        man: on the device of the images.
        images: shape (B, C, spatial axes).
        architecture: what MAN is told.

    Returns:
        Shape (B, N), layer by layer.
    """
    with torch.no_grad():
        # Of a MAN that is not told the image they are the same for all.
        return (2 * man.scalars(images, architecture, rows=EveryRow.of(man))).expand(len(images), -1)


class ScalarMoments:
    """Mean, spread and range of every scalar over what it is shown, batch by batch, so that none has to be kept."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._squares = self.least = self.most = self.saturated = torch.zeros(0)

    def add(self, scalars: Tensor) -> None:
        """Take in a batch of scalars in (0, 2), shape (B, N)."""
        values = scalars.double()
        count, mean = len(values), values.mean(0)
        squares = ((values - mean) ** 2).sum(0)
        saturated = ((values < 2 * SATURATED) | (values > 2 * (1 - SATURATED))).sum(0)
        least, most = values.amin(0), values.amax(0)
        if self.count:  # Chan's update: a sum of squares less a square would lose a small spread
            total, shift = self.count + count, mean - self.mean
            squares = self._squares + squares + shift**2 * (self.count * count / total)
            mean = self.mean + shift * (count / total)
            least, most = torch.minimum(self.least, least), torch.maximum(self.most, most)
            saturated = self.saturated + saturated
        self.count += count
        self.mean, self._squares, self.least, self.most, self.saturated = mean, squares, least, most, saturated

    @property
    def variance(self) -> Tensor:
        """Of every scalar, shape (N,); NaN where only one was shown."""
        return self._squares / (self.count - 1) if self.count > 1 else torch.full_like(self._squares, float("nan"))


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """One layer's scalars, in (0, 2).

    Attributes:
        layer: from 1.
        scalars: how many.
        mean, sd, least, most: over scalars and images together.
        saturated: share of those whose sigmoid is within 0.02 of 0 or 1, in 0 to 1.
        spread_images: median over the scalars of their standard deviation over images.
        spread_architectures: ... over architectures.
    """

    layer: int
    scalars: int
    mean: float
    sd: float
    least: float
    most: float
    saturated: float
    spread_images: float
    spread_architectures: float


@dataclass(frozen=True, kw_only=True)
class ScalarStatistics:
    """All layers, and the medians over the scalars of all of them; a MAN that ignores an input has no spread there."""

    layers: tuple[LayerStatistics, ...]
    spread_images: float
    spread_architectures: float

    @classmethod
    def of(cls, rows: EveryRow, over_images: ScalarMoments, over_architectures: Tensor) -> ScalarStatistics:
        """Put statistics together.

        Args:
            rows: whose scalars these are.
            over_images: those of many images under one architecture.
            over_architectures: standard deviation of each over architectures, shape (N,).
        """
        sizes = rows.sizes
        over_images_sd = over_images.variance.sqrt()
        parts = [
            tensor.split(sizes)
            for tensor in (
                *(over_images.mean, over_images.variance, over_images.least, over_images.most),
                *(over_images.saturated, over_images_sd, over_architectures),
            )
        ]
        layers = []
        for number, (mean, variance, least, most, saturated, images, architectures) in enumerate(
            zip(*parts, strict=True), 1
        ):
            layers.append(
                LayerStatistics(
                    layer=number,
                    scalars=len(mean),
                    mean=float(mean.mean()),
                    sd=float((variance.mean() + mean.var(correction=0)).sqrt()),
                    least=float(least.min()),
                    most=float(most.max()),
                    saturated=float(saturated.double().mean() / over_images.count),
                    spread_images=float(images.median()),
                    spread_architectures=float(architectures.median()),
                )
            )
        return cls(
            layers=tuple(layers),
            spread_images=float(over_images_sd.median()),
            spread_architectures=float(over_architectures.median()),
        )

    def line(self) -> str:
        """Return all layers in one line of a log."""
        of_layers = [
            f"{s.layer}: {s.mean:.2f}/{s.sd:.2f}/{s.saturated:.0%}/{s.spread_images:.4f}/{s.spread_architectures:.4f}"
            for s in self.layers
        ]
        return f"by layer (mean/sd/saturated/spread over images/over architectures) {', '.join(of_layers)}"

    def warning(self, *, told_architecture: bool, told_image: bool = True) -> str | None:
        """Return what is wrong with this MAN and what to do, in one line; None where nothing is.

        Args:
            told_architecture: whether it is; else it cannot depend on it.
            told_image: likewise.
        """
        saturated = [str(s.layer) for s in self.layers if s.saturated > MOST_SATURATED]
        if saturated:  # first, since no gradient gets through, whatever the spread still is
            where = f"layer {saturated[0]}" if len(saturated) == 1 else f"layers {', '.join(saturated)}"
            return (
                f"more than {MOST_SATURATED:.0%} of MAN's scalars in {where} are saturated, near 0 or 2, where they "
                "hardly learn any more. Train anew with a smaller man_lr in the plans' hypersegnas block."
            )
        told = {"images": self.spread_images} if told_image else {}
        if told_architecture:
            told["architectures"] = self.spread_architectures
        if collapsed := [name for name, spread in told.items() if spread < COLLAPSED_SPREAD]:
            return (
                f"MAN's scalars hardly depend on {' and '.join(collapsed)} any more: MAN has collapsed. Train anew "
                "with a smaller man_lr in the plans' hypersegnas block."
            )
        return None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def spread_over_architectures(
    man: MetaAssistantNetwork, image: Tensor, architectures: Sequence[Architecture]
) -> Tensor:
    """Return the standard deviation of every scalar over architectures, for one image.

    Args:
        man: on the device of the image.
        image: shape (1, C, spatial axes).
        architectures: two at least.

    Returns:
        Shape (N,).
    """
    moments = ScalarMoments()
    for architecture in architectures:
        moments.add(all_scalars(man, image, architecture))
    return moments.variance.sqrt()


def scalar_statistics(
    man: MetaAssistantNetwork, images: Tensor, architectures: Sequence[Architecture]
) -> ScalarStatistics:
    """Return what MAN's scalars look like.

    Args:
        man: on the device of the images.
        images: shape (B, C, spatial axes), at least two; the scalars are theirs under the first architecture.
        architectures: at least two; the spread over them is that for the first image.
    """
    moments = ScalarMoments()
    moments.add(all_scalars(man, images, architectures[0]))
    return ScalarStatistics.of(EveryRow.of(man), moments, spread_over_architectures(man, images[:1], architectures))


def scalar_spread(
    man: MetaAssistantNetwork, images: Tensor, architectures: Sequence[Architecture]
) -> tuple[float, float]:
    """Return the spread over images and that over architectures alone, see `scalar_statistics`."""
    found = scalar_statistics(man, images, architectures)
    return found.spread_images, found.spread_architectures
