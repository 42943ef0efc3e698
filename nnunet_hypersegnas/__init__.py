"""HyperSegNAS for nnU-Net: train one super-net, then get the best network for each memory budget."""

__version__ = "0.1.0"
