"""The networks: shared-weight super-net, Meta-Assistant Network, and the stand-alone searched network (paper 3.2)."""

from nnunet_hypersegnas.architectures.deep_supervision import HeadsPresentLoss, deep_supervision_strides
from nnunet_hypersegnas.architectures.distillation import ImitationLoss, Taught
from nnunet_hypersegnas.architectures.man import MAN_INPUTS, MetaAssistantNetwork, scalar_spread
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
    "SearchedNet",
    "SuperNet",
    "Taught",
    "deep_supervision_strides",
    "inherit_weights",
    "scalar_spread",
    "searched_net_kwargs",
]
