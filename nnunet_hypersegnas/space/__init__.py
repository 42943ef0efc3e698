"""What can be searched: the search space, architectures as values, and how they are drawn (paper section 3.1).

Pure Python and NumPy: no torch, so that anything can reason about architectures without a network.
"""

from nnunet_hypersegnas.space.architecture import OFF, Architecture, ArchitectureError, Operation, feasible_edges
from nnunet_hypersegnas.space.code_arrays import canonical, cross_over, mutate, sample_codes, to_architectures, to_codes
from nnunet_hypersegnas.space.counting import count_architectures
from nnunet_hypersegnas.space.dints import architecture_from_dints
from nnunet_hypersegnas.space.encoding import encode
from nnunet_hypersegnas.space.folding import fold_scales
from nnunet_hypersegnas.space.named import named_architecture, names_of_architectures
from nnunet_hypersegnas.space.reference import (
    largest,
    reference_architectures,
    skip_path,
    smallest,
    u_net,
    u_net_parallel_skips,
)
from nnunet_hypersegnas.space.sampling import sample, sample_all_edges
from nnunet_hypersegnas.space.search_space import DEFAULT_LAYERS, Edge, SearchSpace, SearchSpaceError
from nnunet_hypersegnas.space.seeding import derive_seed, rng_for
from nnunet_hypersegnas.space.training_draws import SAMPLERS, DrawError, TrainingDraws

__all__ = [
    "DEFAULT_LAYERS",
    "OFF",
    "SAMPLERS",
    "Architecture",
    "DrawError",
    "ArchitectureError",
    "Edge",
    "Operation",
    "SearchSpace",
    "SearchSpaceError",
    "TrainingDraws",
    "architecture_from_dints",
    "canonical",
    "count_architectures",
    "cross_over",
    "derive_seed",
    "encode",
    "feasible_edges",
    "fold_scales",
    "largest",
    "mutate",
    "named_architecture",
    "names_of_architectures",
    "reference_architectures",
    "rng_for",
    "sample",
    "sample_all_edges",
    "sample_codes",
    "skip_path",
    "smallest",
    "to_architectures",
    "to_codes",
    "u_net",
    "u_net_parallel_skips",
]
