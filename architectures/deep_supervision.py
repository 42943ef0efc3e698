"""Deep supervision in nnU-Net's terms, for sub-nets that have different numbers of heads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nnunet_hypersegnas.space import Architecture, SearchSpace


def deep_supervision_strides(space: SearchSpace, architecture: Architecture) -> list[list[int]]:
    """Return the `strides` that make nnU-Net build one deep-supervision target for each head.

    nnU-Net takes the cumulative product of all entries but the last as the heads' strides, and fails with fewer than
    two targets; a network whose only head is at full resolution gives it twice, the second without weight.
    """
    ones = [1] * space.dimension
    heads = [ones] if space.finest_is_full_resolution else [ones, list(space.strides[0])]
    heads += [list(space.strides[scale]) for scale in range(1, max(architecture.outputs) + 1)]
    if len(heads) == 1:
        heads.append(ones)
    return [*heads, ones]


class HeadsPresentLoss(nn.Module):
    """nnU-Net's deep-supervision loss over the heads that the current sub-net has.

    nnU-Net's own wrapper fixes the weights for all heads of the network. A sampled sub-net lacks the heads coarser than
    its output, so the weights (1, 1/2, 1/4, ... and nothing for the last of several, as nnU-Net has it) are normalised
    over those present.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        used = max(1, len(outputs) - 1)
        weights = [0.5**i for i in range(used)]
        terms = [w * self.loss(o, t) for w, o, t in zip(weights, outputs, targets, strict=False)]
        return sum(terms[1:], terms[0]) / sum(weights)
