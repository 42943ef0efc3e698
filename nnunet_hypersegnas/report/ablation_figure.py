"""The paper's Figure 3: DSC of the ablation's sub-nets over their training memory, one colour a variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context, rcParamsDefault
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_hypersegnas.atomic import written_atomically


@dataclass(frozen=True, kw_only=True)
class AblationDrawing:
    """What is drawn.

    Attributes:
        memory_bytes: predicted, of each sub-net.
        dsc: of each sub-net, by variant's title and then seed; NaN where there is none.
    """

    memory_bytes: Sequence[float]
    dsc: Mapping[str, Mapping[int, Sequence[float]]]

    @property
    def order(self) -> list[int]:
        """The sub-nets, smallest first."""
        return sorted(range(len(self.memory_bytes)), key=lambda i: self.memory_bytes[i])

    def means(self, title: str) -> list[float]:
        """Return a variant's mean over its seeds, smallest sub-net first."""
        of_seeds = list(self.dsc[title].values())
        return [sum(values[i] for values in of_seeds) / len(of_seeds) for i in self.order]


def plot_ablation(drawing: AblationDrawing, path: Path) -> None:
    """Draw into a PNG file: a point for each sub-net and seed, lines through the means over the seeds."""
    unit, size = ("GB", 1e9) if max(drawing.memory_bytes) >= 1e9 else ("MB", 1e6)
    memory = [value / size for value in drawing.memory_bytes]
    with rc_context(rcParamsDefault):
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for number, (title, of_seeds) in enumerate(drawing.dsc.items()):
            colour = f"C{number}"
            for values in of_seeds.values():
                axes.scatter(memory, values, color=colour, s=12, alpha=0.5, linewidths=0)
            axes.plot(
                [memory[i] for i in drawing.order], drawing.means(title), color=colour, linewidth=1.2, label=title
            )
        axes.set_xlabel(f"training memory, predicted ({unit})")
        axes.set_ylabel("DSC with shared weights, mean of the labels")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
