"""What can be wrong with an ablation."""

from nnunet_hypersegnas.errors import HyperSegNASError


class AblationError(HyperSegNASError):
    """An ablation that cannot be run like this, or a folder that holds another one."""
