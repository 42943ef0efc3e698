"""The curves of super-net training: losses, the reference sub-nets' DSC, lambda and how alive MAN is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_hypersegnas.atomic import written_atomically


@dataclass(frozen=True, kw_only=True)
class TrainingCurves:
    """One value per epoch in every sequence; DSC and lambda in 0 to 1, spreads in 0 to 2, NaN where there is no MAN.

    `dsc` and `dsc_without_man` are by reference sub-net.
    """

    training_loss: Sequence[float]
    validation_loss: Sequence[float]
    dsc: Mapping[str, Sequence[float]]
    dsc_without_man: Mapping[str, Sequence[float]]
    annealing_lambda: Sequence[float]
    spread_images: Sequence[float]
    spread_architectures: Sequence[float]

    @property
    def have_man(self) -> bool:
        """Whether there is anything to draw of MAN."""
        return any(map(math.isfinite, self.spread_images))

    @classmethod
    def from_log(cls, log: Mapping[str, Sequence[float]], references: Sequence[str]) -> TrainingCurves:
        """Read nnU-Net's log, in which our keys stand without their prefix."""
        return cls(
            training_loss=log["train_losses"],
            validation_loss=log["val_losses"],
            dsc={name: log[f"dsc_{name}"] for name in references},
            dsc_without_man={name: log[f"dsc_{name}_without_man"] for name in references},
            annealing_lambda=log["lambda"],
            spread_images=log["spread_images"],
            spread_architectures=log["spread_architectures"],
        )


def plot_training_curves(curves: TrainingCurves, path: Path) -> None:
    """Draw the curves into a PNG file."""
    with rc_context(rcParamsDefault):  # nnU-Net's own plot leaves seaborn's style behind
        _draw(curves, path)


def _draw(curves: TrainingCurves, path: Path) -> None:
    panels = 3 if curves.have_man else 2
    figure = Figure(figsize=(9, 10 * panels / 3), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores, *of_man = figure.subplots(panels, 1, sharex=True)
    losses.plot(curves.training_loss, label="training")
    losses.plot(curves.validation_loss, label="validation, reference sub-nets")
    losses.set_ylabel("loss (Dice + CE)")
    for name, values in curves.dsc.items():
        (line,) = scores.plot(values, label=name)
        if curves.have_man:
            scores.plot(curves.dsc_without_man[name], linestyle=":", color=line.get_color())
    scores.set_ylabel("pseudo DSC (dotted: without MAN)" if curves.have_man else "pseudo DSC")
    scores.set_ylim(0, 1)
    for axes in (losses, scores):
        axes.legend(fontsize="small", loc="best")
    for axes in of_man:
        _draw_man(curves, axes)
    figure.axes[panels - 1].set_xlabel("epoch")
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_man(curves: TrainingCurves, man: Axes) -> None:
    man.plot(curves.spread_images, label="spread of MAN's scalars over images")
    man.plot(curves.spread_architectures, label="... over architectures")
    man.set_ylabel("standard deviation (of 0 to 2)")
    man.set_ylim(bottom=0)
    schedule = man.twinx()
    schedule.plot(curves.annealing_lambda, color="black", linestyle="--", label="lambda (right axis)")
    schedule.set_ylim(-0.02, 1.02)
    lines = man.get_lines() + schedule.get_lines()
    man.legend(lines, [str(line.get_label()) for line in lines], fontsize="small", loc="best")
