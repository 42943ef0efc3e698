"""Scores of a super-net's sub-nets, each computed once: with shared weights, and after fine-tuning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_hypersegnas.architectures import OneShotNetwork, SearchedNet, inherit_weights, searched_net_kwargs
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fine_tuning import FineTuner
from nnunet_hypersegnas.nnunet.plans import write_inherited_weights
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.search import EvaluationLog, Score
from nnunet_hypersegnas.space import Architecture, SearchSpace, derive_seed


@dataclass(frozen=True, kw_only=True)
class FineTuningPlan:
    """How long and how fast finalists are fine-tuned, and the seed of their batches."""

    iterations: int
    learning_rate: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Names of a search's evaluations; each holds everything that the scores depend on beside the architecture."""

    shared: str
    fine_tuned: str

    @classmethod
    def of(cls, checkpoint_id: str, cases: Sequence[str], plan: FineTuningPlan) -> Stages:
        """Name the evaluations of one super-net's weights on some validation cases."""
        shared = f"shared {digest(checkpoint_id, list(cases))}"
        return cls(
            shared=shared, fine_tuned=f"fine-tuned {digest(shared, plan.iterations, plan.learning_rate, plan.seed)}"
        )


class SubNetEvaluator:
    """The search's evaluator on an nnU-Net data set.

    Args:
        dataset: data set and configuration of the super-net.
        fold: the super-net's fold.
        network: the super-net, on `device`.
        scorer: the fold's validation crops.
        folder: where the evaluation log and the finalists' weights are kept.
        stages: names of the evaluations; scores under other names are never read.
        plan: how finalists are fine-tuned.
        device: where all this runs.
    """

    def __init__(
        self,
        dataset: PreprocessedDataset,
        fold: int,
        network: OneShotNetwork,
        scorer: CropScorer,
        *,
        folder: Path,
        stages: Stages,
        plan: FineTuningPlan,
        device: torch.device,
    ) -> None:
        self.dataset, self.fold, self.network, self.scorer = dataset, fold, network, scorer
        self.folder, self.stages, self.plan, self.device = folder, stages, plan, device
        self.log = EvaluationLog(folder / "evaluations.jsonl", "score", Score.from_json)
        self._fine_tuner: FineTuner | None = None

    @property
    def space(self) -> SearchSpace:
        return self.network.super_net.space

    def score_shared(self, architecture: Architecture) -> Score:
        if known := self.log.get(self.stages.shared, architecture):
            return known
        self.network.take(architecture)
        score = self.scorer.score(self.network)
        self.log.add(self.stages.shared, architecture, score)
        return score

    def score_fine_tuned(self, architecture: Architecture) -> Score:
        if (known := self.log.get(self.stages.fine_tuned, architecture)) and self.weights_file(architecture).exists():
            return known
        network = self.inherited(architecture)
        if self._fine_tuner is None:
            self._fine_tuner = FineTuner(self.dataset, self.space, self.fold, self.device, self.folder / "log")
        self._fine_tuner.fine_tune(
            network,
            iterations=self.plan.iterations,
            learning_rate=self.plan.learning_rate,
            seed=derive_seed(self.plan.seed, "fine-tuning", architecture.id),
        )
        score = self.scorer.score(network)
        write_inherited_weights(self.weights_file(architecture), network, fold=self.fold, stage=self.stages.fine_tuned)
        self.log.add(self.stages.fine_tuned, architecture, score)
        return score

    def inherited(self, architecture: Architecture) -> SearchedNet:
        """Return the stand-alone network with the super-net's weights."""
        network = SearchedNet(
            self.dataset.input_channels,
            self.dataset.label_manager.num_segmentation_heads,
            **searched_net_kwargs(self.space, architecture),
        ).to(self.device)
        inherit_weights(self.network.super_net, network)
        return network

    def weights_file(self, architecture: Architecture) -> Path:
        """Return where a finalist's fine-tuned weights are kept."""
        return self.folder / "finalists" / f"{architecture.id}_{self.stages.fine_tuned.rpartition(' ')[2]}.pth"

    def close(self) -> None:
        """Shut nnU-Net's background workers down."""
        if self._fine_tuner is not None:
            self._fine_tuner.close()


def digest(*values: Any) -> str:
    """Return a short name of JSON-able values, the same on every machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
