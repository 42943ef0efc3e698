"""Which sub-net a super-net's training takes in an iteration: a pure function of seed, epoch and step."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_hypersegnas.space.architecture import OFF, Architecture, Operation
from nnunet_hypersegnas.space.sampling import sample, sample_all_edges
from nnunet_hypersegnas.space.search_space import SearchSpace
from nnunet_hypersegnas.space.seeding import rng_for

SAMPLERS = ("uniform", "strictly fair", "important paths")


@dataclass(frozen=True, kw_only=True)
class TrainingDraws:
    """The sub-nets of a training, each drawn by itself, so that a continued training draws the same.

    Attributes:
        space: the super-net's search space.
        seed: of the training.
        iterations_per_epoch: which turn a global iteration into epoch and step.
        warmup: how many of the first iterations have every edge active.
        sampler: "uniform": the paper's draws. "strictly fair": after FairNAS (Chu et al., ICCV 2021), of every two
            iterations the second takes the first one's edges with their operations swapped, so that both operations of
            an edge are trained equally often; unlike there, the weights are updated after each of the two.
            "important paths": of `path_candidates` draws the one with most convolutions. As in GreedyNAS (You et al.,
            CVPR 2020) training dwells on paths that may be good; which these are is estimated from the architecture
            alone, as in AttentiveNAS's sampling of the best of k (Wang et al., CVPR 2021), here by its size, so that
            nothing has to be evaluated or remembered. The warm-up is not biased: its draws have the same edges.
        path_candidates: for "important paths".
    """

    space: SearchSpace
    seed: int
    iterations_per_epoch: int
    warmup: int = 0
    sampler: str = SAMPLERS[0]
    path_candidates: int = 3

    def architecture(self, iteration: int, *rank: int) -> Architecture:
        """Return the sub-net of a global iteration; ranks that draw for themselves name themselves."""
        if self.sampler == "strictly fair" and iteration % 2:
            return swapped_operations(self._drawn(iteration - 1, rank))
        return self._drawn(iteration, rank)

    def _drawn(self, iteration: int, rank: tuple[int, ...]) -> Architecture:
        rng = rng_for(self.seed, "training architecture", *divmod(iteration, self.iterations_per_epoch), *rank)
        if iteration < self.warmup:
            return sample_all_edges(self.space, rng)
        if self.sampler == "important paths":
            candidates = [sample(self.space, rng) for _ in range(self.path_candidates)]
            return max(candidates, key=lambda architecture: architecture.n_convolutions)  # the first of equal ones
        return sample(self.space, rng)


def swapped_operations(architecture: Architecture) -> Architecture:
    """Return the architecture with skips and convolutions swapped, on the same edges."""
    other = {OFF: OFF, int(Operation.SKIP): int(Operation.CONV), int(Operation.CONV): int(Operation.SKIP)}
    return Architecture(tuple(tuple(other[code] for code in row) for row in architecture.codes))
