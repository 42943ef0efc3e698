"""Reading topologies that DiNTS published, as architectures of the paper's space."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_hypersegnas.space.architecture import OFF, Architecture, ArchitectureError, Operation


def architecture_from_dints(arch_code_a: Sequence[Sequence[int]], arch_code_c: Sequence[Sequence[int]]) -> Architecture:
    """Convert a DiNTS code: DiNTS's topology with HyperSegNAS's operations.

    Args:
        arch_code_a: shape (L, E), 1 where an edge is on.
        arch_code_c: shape (L, E), the operation where it is on: 0 skip, 1 convolution, 2 to 4 pseudo-3D convolutions,
            which this two-operation space does not have and which become the full convolution.

    Raises:
        ArchitectureError: the two arrays disagree in shape, or hold other values.
    """
    if [len(row) for row in arch_code_a] != [len(row) for row in arch_code_c]:
        raise ArchitectureError("arch_code_a and arch_code_c must have the same shape, layers by edges")
    if not {v for row in arch_code_a for v in row} <= {0, 1} or not {v for r in arch_code_c for v in r} <= set(
        range(5)
    ):
        raise ArchitectureError("arch_code_a holds 0 or 1 and arch_code_c 0 to 4 in a DiNTS code")
    return Architecture(
        tuple(
            tuple(
                OFF if not on else int(Operation.CONV if operation else Operation.SKIP)
                for on, operation in zip(row_a, row_c, strict=True)
            )
            for row_a, row_c in zip(arch_code_a, arch_code_c, strict=True)
        )
    )
