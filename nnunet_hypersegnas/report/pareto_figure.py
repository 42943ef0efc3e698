"""A picture of what a search found: DSC against training memory, and the front that nothing beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context, rcParamsDefault
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_hypersegnas.atomic import written_atomically
from nnunet_hypersegnas.cost import Quantity
from nnunet_hypersegnas.search import Contest, Rung, pareto_front

Point = tuple[float, float]  # training memory in bytes, DSC


@dataclass(frozen=True)
class ParetoDrawing:
    """What is drawn.

    Attributes:
        networks: by budget, all that were fine-tuned in full.
        front: those than which none is both smaller and better, by memory.
        budgets: most memory of each budget that limits it, in bytes.
        memory: how memory is known, for the axis.
    """

    networks: Mapping[str, Sequence[Point]]
    front: Sequence[Point]
    budgets: Mapping[str, float]
    memory: str

    @classmethod
    def of(cls, contests: Sequence[Contest], last: Rung, memory: str) -> ParetoDrawing:
        """Collect what was evaluated on the last rung."""
        networks = {
            contest.budget.label: [(c.memory_bytes, c.scores[last].dsc) for c in contest.candidates if last in c.scores]
            for contest in contests
        }
        limits = {contest.budget.label: contest.budget.limits.intervals.get(Quantity.MEMORY) for contest in contests}
        return cls(
            networks=networks,
            front=[(c.memory_bytes, c.scores[last].dsc) for c in pareto_front(contests, last)],
            budgets={label: limit.high for label, limit in limits.items() if limit},
            memory=memory,
        )


def plot_pareto(drawing: ParetoDrawing, path: Path) -> None:
    """Draw into a PNG file."""
    largest = max(memory for points in drawing.networks.values() for memory, _ in points)
    unit, size = ("GB", 1e9) if largest >= 1e9 else ("MB", 1e6)
    with rc_context(rcParamsDefault):
        figure = Figure(figsize=(6.5, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for number, (label, points) in enumerate(drawing.networks.items()):
            colour = f"C{number}"
            axes.scatter([m / size for m, _ in points], [d for _, d in points], color=colour, label=label, zorder=3)
            if label in drawing.budgets:
                axes.axvline(drawing.budgets[label] / size, color=colour, linewidth=0.8, linestyle=":")
        axes.step(
            [m / size for m, _ in drawing.front],
            [d for _, d in drawing.front],
            where="post",
            color="black",
            linewidth=1,
            label="Pareto front",
        )
        axes.set_xlabel(f"training memory, {drawing.memory} ({unit})")
        axes.set_ylabel("DSC, fine-tuned, of the fold that chose")
        axes.grid(alpha=0.3)
        axes.legend()
        with written_atomically(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
