"""The networks: shared-weight super-net, Meta-Assistant Network, and the stand-alone searched network (paper 3.2)."""

from nnunet_hypersegnas.architectures.deep_supervision import HeadsPresentLoss, deep_supervision_strides
from nnunet_hypersegnas.architectures.distillation import ImitationLoss, Taught
from nnunet_hypersegnas.architectures.man import MAN_INPUTS, MetaAssistantNetwork
from nnunet_hypersegnas.architectures.man_statistics import (
    ScalarMoments,
    ScalarStatistics,
    all_scalars,
    scalar_spread,
    scalar_statistics,
    spread_architectures,
    spread_over_architectures,
)
from nnunet_hypersegnas.architectures.one_shot import OneShotNetwork
from nnunet_hypersegnas.architectures.searched_net import SearchedNet, inherit_weights, searched_net_kwargs
from nnunet_hypersegnas.architectures.super_net import SuperNet
from nnunet_hypersegnas.architectures.topology_network import SCALAR_POSITIONS

__all__ = [
    "MAN_INPUTS",
    "SCALAR_POSITIONS",
    "HeadsPresentLoss",
    "ImitationLoss",
    "MetaAssistantNetwork",
    "OneShotNetwork",
    "ScalarMoments",
    "ScalarStatistics",
    "SearchedNet",
    "SuperNet",
    "Taught",
    "all_scalars",
    "deep_supervision_strides",
    "inherit_weights",
    "scalar_spread",
    "scalar_statistics",
    "searched_net_kwargs",
    "spread_architectures",
    "spread_over_architectures",
]
