"""What can be wrong with a correlation."""

from nnunet_hypersegnas.errors import HyperSegNASError


class CorrelationError(HyperSegNASError):
    """A correlation that cannot be run like this, or a folder that holds another one."""
