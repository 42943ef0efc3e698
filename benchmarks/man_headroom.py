"""What MAN could give a trained super-net: scalars of each sub-net's own beside a mask that all of them share.

    python -m benchmarks.man_headroom DATASET CONFIGURATION FOLD -p PLANS -tr HyperSegNASSupernetTrainerVanilla

The super-net's weights stay as they are, and scalars are trained in place of MAN's by Adam: for each of some sub-nets
its own, and one table for all sub-nets, which are drawn as in training. Losses are nnU-Net's, on augmented patches of
training cases that no scalar was trained on. What a shared mask gives, weights could give as well; what scalars of a
sub-net's own give beyond it is what telling MAN the architecture is for.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.tables import section, table
from nnunet_hypersegnas.architectures import OneShotNetwork
from nnunet_hypersegnas.architectures.man import EveryRow
from nnunet_hypersegnas.nnunet.ablation.sub_nets import SubNet, spread_sub_nets
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fine_tuning import FineTuner
from nnunet_hypersegnas.nnunet.seeded_batches import SeededBatches
from nnunet_hypersegnas.nnunet.super_net_loading import load_trained
from nnunet_hypersegnas.space import Architecture, Operation, rng_for, sample

LEARNING_RATE = 0.03

# What a sigmoid is taken of, by (layer, column, operation): one for each output channel.
Logits = dict[tuple[int, int, Operation], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("fold", type=int)
    parser.add_argument("-p", default="nnUNetPlans", help="[%(default)s]")
    parser.add_argument("-tr", default="HyperSegNASSupernetTrainerVanilla", help="of the super-net [%(default)s]")
    parser.add_argument("--architectures", type=int, default=6, help="[%(default)s]")
    parser.add_argument("--own-steps", type=int, default=200, help="for each sub-net's own scalars [%(default)s]")
    parser.add_argument("--shared-steps", type=int, default=900, help="for the mask that all share [%(default)s]")
    parser.add_argument("--batches", type=int, default=30, help="that losses are taken on [%(default)s]")
    args = parser.parse_args()
    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration)
    headroom = Headroom(dataset, args.tr, args.fold, args.batches)
    costs = cost_model(dataset, "cpu")
    sub_nets = spread_sub_nets(costs.space, costs.predict, args.architectures)
    with section("Scalars of a sub-net's own, and a mask that all sub-nets share"):
        table(list(headroom.rows(sub_nets, args.own_steps, args.shared_steps)))


class Headroom:
    """A trained super-net, batches, and nnU-Net's loss.

    Args:
        dataset: with the plans that the super-net was trained with.
        trainer: the super-net's.
        fold: its fold.
        held_out: batches that losses are taken on.
    """

    def __init__(self, dataset: PreprocessedDataset, trainer: str, fold: int, held_out: int) -> None:
        trained = load_trained(dataset, dataset.trained_folder(trainer, fold) / "checkpoint_final.pth")
        self.space, self.network = trained.record.space, trained.network
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        with tempfile.TemporaryDirectory() as folder:
            tuner = FineTuner(dataset, self.space, fold, torch.device("cpu"), Path(folder))
        self.loader, self.loss = tuner.loader, tuner.trainer.loss
        self.held_out = list(itertools.islice(SeededBatches(self.loader, 1), held_out))

    def rows(self, sub_nets: Sequence[SubNet], own_steps: int, shared_steps: int) -> Iterable[dict[str, str]]:
        """Yield what each sub-net gains, and the mean of these, as text."""
        drawn = (sample(self.space, rng_for(0, "headroom", i)) for i in range(shared_steps))
        shared = self._train(drawn)
        gains = []
        for net in sub_nets:
            architecture = net.architecture
            plain = self._losses(architecture, None)
            own = self._train(itertools.repeat(architecture, own_steps))
            gains.append([float((self._losses(architecture, logits) - plain).mean()) for logits in (shared, own)])
            edges = f"{sum(1 for _ in architecture.active())} edges, {net.memory_bytes / 1e6:.1f} MB"
            yield {
                "sub-net": edges,
                "loss": f"{plain.mean():.3f}",
                **{name: f"{gain:+.3f}" for name, gain in zip(("shared mask", "own"), gains[-1], strict=True)},
            }
        shared_mean, own_mean = np.mean(gains, axis=0)
        yield {"sub-net": "mean", "loss": "", "shared mask": f"{shared_mean:+.3f}", "own": f"{own_mean:+.3f}"}

    def _train(self, architectures: Iterable[Architecture]) -> Logits:
        """Train scalars, in each step those of the next sub-net."""
        logits = {
            (layer, column, operation): torch.zeros(self.space.channels[edge.target], requires_grad=True)
            for layer, column, edge, operation in EveryRow(self.space, "output").active()
        }
        optimizer = torch.optim.Adam(logits.values(), LEARNING_RATE)
        for architecture, batch in zip(architectures, SeededBatches(self.loader, 0), strict=False):
            optimizer.zero_grad(set_to_none=True)
            self._loss(batch, architecture, logits).backward()
            optimizer.step()
        return logits

    def _losses(self, architecture: Architecture, logits: Logits | None) -> np.ndarray:
        """Return the loss of each held-out batch, shape (batches,)."""
        with torch.no_grad():
            return np.array([float(self._loss(batch, architecture, logits)) for batch in self.held_out])

    def _loss(self, batch: dict[str, Any], architecture: Architecture, logits: Logits | None) -> Tensor:
        network: OneShotNetwork = self.network
        modulation = None
        if logits is not None:
            modulation = {
                (layer, column): 2 * logits[layer, column, operation].sigmoid().expand(len(batch["data"]), -1)
                for layer, column, _, operation in architecture.active()
            }
        return self.loss(network.super_net(batch["data"], architecture, modulation, all_heads=True), batch["target"])


if __name__ == "__main__":
    main()
