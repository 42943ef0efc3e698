"""Which sub-net a super-net's training takes in an iteration: a pure function of seed, epoch and step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.space.architecture import OFF, Architecture, Operation
from nnunet_hypersegnas.space.code_arrays import canonical, to_architectures, to_codes
from nnunet_hypersegnas.space.sampling import sample, sample_all_edges
from nnunet_hypersegnas.space.search_space import SearchSpace
from nnunet_hypersegnas.space.seeding import rng_for

SAMPLERS = ("uniform", "strictly fair", "important paths")
MOST_DRAWS = 10_000  # in a row that do not fit; a limit that so few sub-nets meet is refused before a training starts


class DrawError(HyperSegNASError):
    """No sub-net can be drawn that fits."""


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
        fits: says of codes, shape (n, L, E), which of their sub-nets can be trained; others are drawn again, and the
            warm-up leaves out edges until the rest fits. None: all can.
    """

    space: SearchSpace
    seed: int
    iterations_per_epoch: int
    warmup: int = 0
    sampler: str = SAMPLERS[0]
    path_candidates: int = 3
    fits: Callable[[np.ndarray], np.ndarray] | None = None

    def architecture(self, iteration: int, *rank: int) -> Architecture:
        """Return the sub-net of a global iteration; ranks that draw for themselves name themselves."""
        if self.sampler == "strictly fair" and iteration % 2:
            return swapped_operations(self._drawn(iteration - 1, rank))
        return self._drawn(iteration, rank)

    def _drawn(self, iteration: int, rank: tuple[int, ...]) -> Architecture:
        rng = rng_for(self.seed, "training architecture", *divmod(iteration, self.iterations_per_epoch), *rank)
        for _ in range(MOST_DRAWS):
            drawn = self._drawn_once(iteration, rng)
            if self.fits is None or self._all_fit(drawn):
                return drawn
        raise DrawError(f"none of {MOST_DRAWS} sub-nets drawn for iteration {iteration} fits the memory limit")

    def _drawn_once(self, iteration: int, rng: np.random.Generator) -> Architecture:
        if iteration < self.warmup:
            return self._thinned(sample_all_edges(self.space, rng), rng)
        if self.sampler == "important paths":
            candidates = [sample(self.space, rng) for _ in range(self.path_candidates)]
            return max(candidates, key=lambda architecture: architecture.n_convolutions)  # the first of equal ones
        return sample(self.space, rng)

    def _all_fit(self, drawn: Architecture) -> bool:
        assert self.fits is not None
        trained = [drawn, swapped_operations(drawn)] if self.sampler == "strictly fair" else [drawn]
        return bool(self.fits(to_codes(trained)).all())

    def _thinned(self, full: Architecture, rng: np.random.Generator) -> Architecture:
        """Return the architecture without the first few of its edges in a random order: as few as make it fit."""
        if self.fits is None or self._all_fit(full):
            return full
        codes = to_codes([full])[0]
        order = rng.permutation(codes.size)
        fewest, most = 0, codes.size - 1  # fewer do not fit; so many may leave no path at all
        while most - fewest > 1:
            count = (fewest + most) // 2
            thinner, valid = self._without(codes, order[:count])
            if valid and not self._all_fit(thinner):
                fewest = count
            else:
                most = count
        thinner, valid = self._without(codes, order[:most])
        return thinner if valid else full

    def _without(self, codes: np.ndarray, edges: np.ndarray) -> tuple[Architecture, bool]:
        """Return the architecture without some edges, and whether there is a path left; else it is the full one."""
        left = codes.copy()
        left.reshape(-1)[edges] = OFF
        pruned, valid = canonical(self.space, left[None])
        return to_architectures(pruned if valid[0] else codes[None])[0], bool(valid[0])


def swapped_operations(architecture: Architecture) -> Architecture:
    """Return the architecture with skips and convolutions swapped, on the same edges."""
    other = {OFF: OFF, int(Operation.SKIP): int(Operation.CONV), int(Operation.CONV): int(Operation.SKIP)}
    return Architecture(tuple(tuple(other[code] for code in row) for row in architecture.codes))
