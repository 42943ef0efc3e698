"""The course of super-net training as a pure function of the global iteration, so that a resumed run continues it."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_hypersegnas.nnunet.settings import SuperNetSettings

POLY_EXPONENT = 0.9  # nnU-Net's PolyLR
ANNEALING_END = 0.1  # share of the annealing learning rate that is left at the end


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up, main phase and annealing, counted in iterations from 0.

    Learning rate and warm-up do not depend on what becomes of MAN, so that super-nets with and without it compare.

    Attributes:
        iterations: all iterations.
        annealing: how many of the last iterations anneal MAN away, where there is one, and let the network settle; the
            learning rate restarts for them.
        annealing_share: the share of them after which MAN is gone.
        warmup: how many of the first iterations run with every edge active.
        restart: the learning rate that annealing starts from, relative to the initial one.
        sandwich_every: after the warm-up, every so many iterations are a sandwich step; 0 for none.
        constant_lambda: lambda of every iteration, where MAN is not annealed: 0 with it, 1 where there is none.
    """

    iterations: int
    annealing: int
    warmup: int = 0
    annealing_share: float = 1.0
    restart: float = 0.5
    sandwich_every: int = 0
    constant_lambda: float | None = None

    @classmethod
    def from_settings(cls, settings: SuperNetSettings) -> Schedule:
        iterations = settings.epochs * settings.iterations_per_epoch
        annealing = round(settings.annealing_phase * settings.iterations_per_epoch)
        constant_lambda = None
        if not settings.has_man:
            constant_lambda = 1.0
        elif settings.annealing != "linear":
            constant_lambda = 0.0
        return cls(
            constant_lambda=constant_lambda,
            iterations=iterations,
            annealing=max(1, annealing),  # however short the run, its last step is without MAN
            annealing_share=settings.annealing_share,
            warmup=round(settings.warmup_phase * settings.iterations_per_epoch),
            sandwich_every=settings.sandwich_every,
            restart=0.5 if settings.annealing_lr is None else settings.annealing_lr / settings.base_lr,
        )

    @property
    def main(self) -> int:
        """Number of iterations before annealing."""
        return self.iterations - self.annealing

    def is_sandwich(self, iteration: int) -> bool:
        """Whether the largest and the smallest network are trained beside the iteration's sub-net."""
        since = iteration - self.warmup + 1
        return self.sandwich_every > 0 and since > 0 and since % self.sandwich_every == 0

    def annealing_lambda(self, iteration: int) -> float:
        """Return lambda of Eq. 5: 0 until annealing starts, then linear to 1, at its share or in the last iteration.

        In the warm-up it is 1, too: all iterations have one architecture there, and MAN would learn a static mask.
        """
        if iteration < self.warmup:
            return 1.0
        if self.constant_lambda is not None:
            return self.constant_lambda
        return min(1.0, max(0.0, (iteration - self.main + 1) / (self.annealing_share * self.annealing)))

    def lr_factor(self, iteration: int) -> float:
        """Return the learning rate relative to its initial value.

        nnU-Net's polynomial decay over the main phase; then it restarts and decays to a tenth, since a rate that ends
        at zero would leave the weights as they were just when MAN's last influence goes.
        """
        if iteration < self.main:
            return (1 - iteration / self.main) ** POLY_EXPONENT
        progress = min(1.0, (iteration - self.main) / self.annealing)
        return self.restart * (ANNEALING_END + (1 - ANNEALING_END) * (1 - progress) ** POLY_EXPONENT)

    def man_lr_factor(self, iteration: int) -> float:
        """Return MAN's learning rate relative to its initial value; it goes as MAN's influence does.

        AdamW's steps are as long for the small gradients of a MAN that is nearly gone as for large ones: at the
        network's rate, what MAN knows of architectures is lost while the network still uses it.
        """
        return self.lr_factor(iteration) * (1 - self.annealing_lambda(iteration))
