"""Whether the cheaper form is the worse network: `SearchedNet` and DiNTS's form, trained alike on a real data set.

    python -m benchmarks.forms DATASET CONFIGURATION FOLD -p PLANS --state FOLDER

For each architecture and seed both networks get nnU-Net's loaders, augmentation, loss and optimizer, the same batches
and as many iterations, from each one's own initialisation. Both have one head, at full resolution, since DiNTS has no
other. The score is the DSC on foreground crops of the fold's validation cases. Trainings that are done are kept in
FOLDER, so that an interrupted call goes on. benchmarks/dints.py says how the forms differ.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.dints import OURS, SAME, SameFunction, dints
from benchmarks.tables import section, table
from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.architectures.operations import in_fast_layout
from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.evaluation import paired_test
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fine_tuning import FineTuner
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.validation_crops import keep_validation_crops
from nnunet_hypersegnas.space import Architecture, Operation, SearchSpace, derive_seed, rng_for, sample

LEARNING_RATE = 0.01  # nnU-Net's
FEWEST_CONVOLUTIONS = 8  # with less to compute the forms hardly differ


class OneHead(nn.Module):
    """A network as nnU-Net trains it with deep supervision, but with the full-resolution head alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.deep_supervision = False

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        logits = self.network(in_fast_layout(image))
        return [logits] if self.deep_supervision else logits


@dataclass(frozen=True, kw_only=True)
class Training:
    """One network's training and its outcome; DSC is the mean over labels and cases."""

    architecture: str
    form: str
    seed: int
    iterations: int
    dsc: float
    dsc_by_label: dict[str, float]
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("fold", type=int)
    parser.add_argument(
        "-p", default="nnUNetPlans", help="plans; their hypersegnas block gives the space [%(default)s]"
    )
    parser.add_argument("--state", type=Path, required=True, help="folder that keeps what is done")
    parser.add_argument("--architectures", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--seeds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--iterations", type=int, default=1000, help="of each training [%(default)s]")
    parser.add_argument("--device", default="cpu", help="[%(default)s]")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
        os.environ.setdefault("nnUNet_n_proc_DA", "0")
    device = torch.device(args.device)
    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration)
    bench = Bench(dataset, args.fold, device, args.state, args.iterations)
    architectures = drawn(bench.space, args.architectures)
    trainings = [
        bench.training(architecture, form, seed)
        for seed in range(args.seeds)
        for architecture in architectures
        for form in (OURS, SAME)
    ]
    title = f"{args.dataset}, plans {args.p}, fold {args.fold}, {args.iterations} iterations on {args.device}"
    with section(f"The same topology in both forms ({title})"):
        table(list(rows(trainings)))
        print(f"\n{verdict(trainings)}")


def drawn(space: SearchSpace, count: int) -> list[Architecture]:
    """Return random architectures with some convolutions."""
    rng = rng_for(0, "benchmark", "forms")
    endless = (sample(space, rng) for _ in itertools.count())
    return list(itertools.islice((a for a in endless if convolutions(a) >= FEWEST_CONVOLUTIONS), count))


def convolutions(architecture: Architecture) -> int:
    return sum(operation is Operation.CONV for *_, operation in architecture.active())


class Bench:
    """Trains and scores networks on one fold, and keeps the outcomes."""

    def __init__(
        self, dataset: PreprocessedDataset, fold: int, device: torch.device, folder: Path, iterations: int
    ) -> None:
        configuration = dataset.configuration.configuration
        self.space = SuperNetSettings.from_configuration(configuration).space(configuration)
        self.dataset, self.device, self.folder, self.iterations = dataset, device, folder, iterations
        self.tuner = FineTuner(dataset, self.space, fold, device, folder / "log")  # first: it makes nnU-Net split
        self.scorer = CropScorer(dataset, keep_validation_crops(folder / "crops", dataset, fold), device)

    def training(self, architecture: Architecture, form: str, seed: int) -> Training:
        """Return what a training gave, done now unless it was before."""
        name = f"{architecture.id}_{form.replace(' ', '_')}_seed{seed}_{self.iterations}"
        outcome = self.folder / f"{name}.json"
        if not outcome.exists():
            network = OneHead(self._network(architecture, form, seed)).to(self.device)
            unfinished, started = self.folder / f"{name}_unfinished.pth", time.perf_counter()
            self.tuner.fine_tune(
                network,
                iterations=self.iterations,
                learning_rate=LEARNING_RATE,
                seed=derive_seed(seed, "forms", architecture.id),
                unfinished=unfinished,
            )
            seconds = time.perf_counter() - started
            score = self.scorer.score(network)
            training = Training(
                architecture=architecture.id,
                form=form,
                seed=seed,
                iterations=self.iterations,
                dsc=score.dsc,
                dsc_by_label=dict(score.dsc_by_label),
                seconds=seconds,
            )
            write_json(outcome, asdict(training))
            unfinished.unlink(missing_ok=True)
        training = Training(**json.loads(outcome.read_text()))
        print(f"{name}: DSC {training.dsc:.4f} in {training.seconds:.0f} s", flush=True)
        return training

    def _network(self, architecture: Architecture, form: str, seed: int) -> nn.Module:
        torch.manual_seed(derive_seed(seed, "forms", "weights"))
        sizes = self.dataset.input_channels, self.dataset.label_manager.num_segmentation_heads
        if form == OURS:
            return SearchedNet(*sizes, **searched_net_kwargs(self.space, architecture))
        return SameFunction(dints(self.space, architecture, *sizes), architecture)


def rows(trainings: Sequence[Training]) -> Iterator[dict[str, str]]:
    for architecture in dict.fromkeys(t.architecture for t in trainings):
        row = {"architecture": architecture}
        for form in (OURS, SAME):
            mine = [t for t in trainings if (t.architecture, t.form) == (architecture, form)]
            title = "ours" if form == OURS else "DiNTS's"
            row[f"{title}: DSC by seed"] = ", ".join(f"{t.dsc:.3f}" for t in mine)
            row[f"{title}: mean by label"] = ", ".join(
                f"{label} {statistics.fmean(t.dsc_by_label[label] for t in mine):.3f}" for label in mine[0].dsc_by_label
            )
            row[f"{title}: seconds"] = f"{statistics.median(t.seconds for t in mine):.0f}"
        yield row


def verdict(trainings: Sequence[Training]) -> str:
    """Return the paired difference, ours minus DiNTS's, over architectures and seeds."""
    dsc = {(t.architecture, t.seed, t.form): t.dsc for t in trainings}
    pairs = [
        (value, dsc[architecture, seed, SAME]) for (architecture, seed, form), value in dsc.items() if form == OURS
    ]
    ours, theirs = np.array(pairs).T
    test = paired_test(ours, theirs)
    return (
        f"Ours minus DiNTS's over {test.cases} pairs of architecture and seed: {test.difference.mean:+.3f} DSC (95 % "
        f"bootstrap interval {test.difference.low:+.3f} to {test.difference.high:+.3f}), better in "
        f"{int((ours > theirs).sum())} of them."
    )


if __name__ == "__main__":
    main()
