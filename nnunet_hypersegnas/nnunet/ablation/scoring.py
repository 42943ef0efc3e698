"""Scoring the sub-nets of one super-net after the other on the same crops."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

from nnunet_hypersegnas.architectures import OneShotNetwork
from nnunet_hypersegnas.cost.measuring import is_out_of_memory
from nnunet_hypersegnas.evaluation.ablation import ScoredSuperNet
from nnunet_hypersegnas.nnunet.ablation.entries import Entry
from nnunet_hypersegnas.nnunet.ablation.folder import AblationFolder, SubNetScore
from nnunet_hypersegnas.nnunet.ablation.sub_nets import SubNet
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.digests import file_digest
from nnunet_hypersegnas.nnunet.scoring import CropScorer, score_reproducibly
from nnunet_hypersegnas.nnunet.super_net_loading import TrainedSuperNet, load_trained
from nnunet_hypersegnas.nnunet.validation_crops import (
    crops_name,
    keep_validation_crops,
    scoring_cases,
)
from nnunet_hypersegnas.search import Progress, Score


class AblationScorer:
    """Scores super-nets; the crops are loaded once.

    Args:
        dataset: with the plans that all super-nets start from.
        fold: whose validation cases score.
        validation_cases: at most so many of them; None for all.
        folder: where crops and scores are kept.
        sub_nets: that are scored.
        device: that scores.

    Raises:
        DatasetError: the fold's validation cases cannot be used.
    """

    def __init__(
        self,
        dataset: PreprocessedDataset,
        fold: int,
        validation_cases: int | None,
        folder: AblationFolder,
        sub_nets: Sequence[SubNet],
        device: torch.device,
    ) -> None:
        self.folder, self.sub_nets, self.device = folder, sub_nets, device
        self.crops = crops_name(dataset, scoring_cases(dataset, fold, validation_cases))
        crops = keep_validation_crops(folder.path / self.crops, dataset, fold, validation_cases)
        self.scorer = CropScorer(dataset, crops, device)
        score_reproducibly(device)

    def score(self, entry: Entry, progress: Progress) -> ScoredSuperNet:
        """Return what a trained super-net's sub-nets score; those that were scored before are not scored again.

        Raises:
            CheckpointError: the super-net is not trained to its end, or does not fit the plans.
        """
        trained = load_trained(entry.model.dataset, entry.checkpoint)
        log = self.folder.scores(entry)
        # All that a score depends on: trained anew, or on other data, a super-net is scored anew.
        stage = f"{file_digest(entry.checkpoint)} at lambda {entry.final_lambda:g}, {self.crops}, {self.device.type}"
        missing = [net for net in self.sub_nets if log.get(stage, net.architecture) is None]
        if missing:
            network = trained.network.to(self.device)
            self._time(network, missing[0], entry.final_lambda)  # first calls are slow
            with progress(entry.name, len(missing)) as bar:
                for net in missing:
                    found = self._time(network, net, entry.final_lambda)
                    log.add(stage, net.architecture, found)
                    bar.advance(found.score.dsc)
        return self._scored(entry, trained, [log.get(stage, net.architecture) for net in self.sub_nets])

    def _time(self, network: OneShotNetwork, net: SubNet, annealing: float) -> SubNetScore:
        network.take(net.architecture, annealing)
        started = time.perf_counter()
        try:
            score = self.scorer.score(network)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            score = Score(dsc_by_label=dict.fromkeys(self.scorer.names, float("nan")))
        seconds = time.perf_counter() - started
        return SubNetScore(score=score, seconds_per_volume=seconds / len(self.scorer.crops))

    def _scored(self, entry: Entry, trained: TrainedSuperNet, scores: Sequence[SubNetScore | None]) -> ScoredSuperNet:
        known = [score for score in scores if score is not None]
        names, epochs = self.scorer.names, [s for s in trained.training_seconds if np.isfinite(s)]
        iterations = trained.record.settings.iterations_per_epoch
        return ScoredSuperNet(
            variant=entry.variant.key,
            seed=entry.seed,
            dsc_by_label=np.array([[one.score.dsc_by_label[name] for name in names] for one in known]),
            seconds_per_volume=np.array([one.seconds_per_volume for one in known]),
            seconds_per_iteration=statistics.median(epochs) / iterations if epochs else float("nan"),
        )
