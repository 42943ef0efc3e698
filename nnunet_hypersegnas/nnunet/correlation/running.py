"""Running a correlation: what the super-nets predict first, then one training from scratch after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nnunet_hypersegnas.nnunet.correlation.from_scratch import FromScratch
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.discovery import TRAINER
from nnunet_hypersegnas.nnunet.fold_training import FoldJob, FoldState, run_jobs
from nnunet_hypersegnas.search import Score
from nnunet_hypersegnas.space import rng_for

Announce = Callable[[FromScratch, FoldJob], None]


def in_order(networks: Sequence[FromScratch]) -> list[FromScratch]:
    """Return the networks in the order in which they are trained: a random one, always the same.

    So those that are there at any time are a sample of all, and not the smallest ones.
    """
    order = rng_for(0, "correlation order", len(networks)).permutation(len(networks))
    return [networks[i] for i in order]


def truths(
    networks: Sequence[FromScratch], base: PreprocessedDataset, device: str, announce: Announce
) -> Iterator[dict[str, Score]]:
    """Train what is not trained, and yield the scores by architecture's id: those there are, then after each training.

    Args:
        networks: all of them.
        base: with the super-net's plans.
        device: nnU-Net's.
        announce: called with each training as it starts.

    Raises:
        FoldsError: nnU-Net failed, or another process trains the network.
        CorrelationError: a network's validation is damaged.
    """
    known = {one.net.architecture.id: score for one in networks if (score := one.truth()) is not None}
    yield known
    for network in in_order(networks):
        if network.state is FoldState.DONE:
            continue
        network.write_plans(base)

        def started(job: FoldJob, variables: Mapping[str, str], log: Path | None, of: FromScratch = network) -> None:
            announce(of, job)

        run_jobs(network.jobs(device), network.model, [{}], started)
        score = network.truth()
        if score is not None:
            known = {**known, network.net.architecture.id: score}
        yield known


def default_folder(dataset: PreprocessedDataset, fold: int) -> Path:
    """Return the correlation's folder among nnU-Net's results of the data set, where nnU-Net does not look."""
    name = f"{dataset.plans['plans_name']}_{dataset.configuration_name}_fold_{fold}"
    return dataset.trained_folder(TRAINER, fold).parent.parent / "hsnas_correlation" / name
