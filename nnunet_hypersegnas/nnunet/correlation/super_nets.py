"""The super-nets whose rankings are judged, and what they predict of the sub-nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from nnunet_hypersegnas.nnunet.correlation.errors import CorrelationError
from nnunet_hypersegnas.nnunet.correlation.folder import CorrelationFolder
from nnunet_hypersegnas.nnunet.correlation.sub_nets import RankedNet
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.digests import digest, file_digest
from nnunet_hypersegnas.nnunet.scoring import CropScorer, score_reproducibly
from nnunet_hypersegnas.nnunet.sub_net_evaluator import FinalistFiles, SubNetEvaluator
from nnunet_hypersegnas.nnunet.super_net_loading import check_trained, load_super_net
from nnunet_hypersegnas.nnunet.supernet_checkpoint import SuperNetRecord
from nnunet_hypersegnas.nnunet.validation_crops import (
    crops_name,
    keep_validation_crops,
    scoring_cases,
)
from nnunet_hypersegnas.search import MeasurementLog, Progress, Rung, Score, SearchSettings, Way
from nnunet_hypersegnas.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class JudgedSuperNet:
    """A trained super-net.

    Attributes:
        plans: name of its plans, which names it in tables.
        trainer: that trained it.
        checkpoint: its final one.
    """

    plans: str
    trainer: str
    checkpoint: Path

    @cached_property
    def digest(self) -> str:
        return file_digest(self.checkpoint)


def judged_super_nets(
    dataset: PreprocessedDataset, space: SearchSpace, plans: Sequence[str], trainer: str, fold: int
) -> list[JudgedSuperNet]:
    """Return the super-nets of some plans, each checked to rank the sub-nets of one search space on the same data.

    Args:
        dataset: with the plans that the networks are trained with.
        space: that these span.
        plans: names of the super-nets' plans.
        trainer: of all of them.
        fold: of all of them.

    Raises:
        CheckpointError: a super-net is missing, not trained to its end, leans on MAN or was trained with other data.
        CorrelationError: one spans another search space.
    """
    found = []
    for name in dict.fromkeys(plans):
        named = replace(dataset, plans={**dataset.plans, "plans_name": name})
        checkpoint = named.trained_folder(trainer, fold) / "checkpoint_final.pth"
        check_trained(named, checkpoint)
        other = SuperNetRecord.read(checkpoint).space
        if other != space:
            raise CorrelationError(
                f"the super-net of plans {name} spans search space {other.digest} ({other.to_json()}), plans "
                f"{dataset.plans['plans_name']} span {space.digest} ({space.to_json()}); all have to span the same one"
            )
        load_super_net(dataset, checkpoint)  # refused before time is spent
        found.append(JudgedSuperNet(plans=name, trainer=trainer, checkpoint=checkpoint))
    return found


@dataclass(frozen=True, kw_only=True)
class SuperNetPredictions:
    """What a super-net predicts of the sub-nets, in their order.

    Attributes:
        super_net: which.
        shared: scores with shared weights.
        fine_tuned: scores after fine-tuning; None where it was left out.
    """

    super_net: JudgedSuperNet
    shared: tuple[Score, ...]
    fine_tuned: tuple[Score, ...] | None


class SuperNetPredictor:
    """Scores sub-nets with one super-net after the other; crops are loaded once, and every score is kept at once.

    Args:
        dataset: with the plans that the networks are trained with.
        fold: whose validation cases score.
        validation_cases: at most so many of them; None for all.
        settings: how long a sub-net is fine-tuned, and how.
        folder: where crops and scores are kept.
        nets: that are scored.
        device: that scores and fine-tunes.

    Raises:
        DatasetError: the fold's validation cases cannot be used.
    """

    def __init__(
        self,
        dataset: PreprocessedDataset,
        fold: int,
        validation_cases: int | None,
        settings: SearchSettings,
        folder: CorrelationFolder,
        nets: Sequence[RankedNet],
        device: torch.device,
    ) -> None:
        self.dataset, self.fold, self.validation_cases = dataset, fold, validation_cases
        self.settings, self.folder, self.nets, self.device = settings, folder, nets, device
        self.crops = crops_name(dataset, scoring_cases(dataset, fold, validation_cases))
        score_reproducibly(device)

    @cached_property
    def scorer(self) -> CropScorer:
        folder = self.folder.path / self.crops
        crops = keep_validation_crops(folder, self.dataset, self.fold, self.validation_cases)
        return CropScorer(self.dataset, crops, self.device)

    def predict(self, super_net: JudgedSuperNet, progress: Progress) -> SuperNetPredictions:
        """Return a super-net's predictions; what was predicted before is not predicted again.

        Raises:
            CheckpointError: the super-net does not fit the plans.
        """
        log = self.folder.scores(super_net.trainer, super_net.plans)
        evaluator, iterations = _Evaluator(self, super_net), self.settings.finetune_iterations
        shared = self._all(log, evaluator, self._rung(Way.CROPS, 0), progress)
        tuned = self._all(log, evaluator, self._rung(Way.FINE_TUNING, iterations), progress) if iterations else None
        return SuperNetPredictions(super_net=super_net, shared=shared, fine_tuned=tuned)

    def _rung(self, way: Way, amount: int) -> Rung:
        return Rung(way=way, amount=amount, keep=len(self.nets), cost_patches=0)

    def _stage(self, super_net: JudgedSuperNet, rung: Rung) -> str:
        """Name all that a score depends on: trained anew, or on other data, a super-net is scored anew."""
        how = "shared weights"
        if rung.way is Way.FINE_TUNING:
            batches = f"batches of {self.dataset.configuration.batch_size}, seed {self.settings.seed}"
            how = f"{rung.amount} iterations at {self.settings.finetune_lr:g} with {batches}"
        return f"{super_net.digest}, {how}, {self.crops}, {self.device.type}"

    def _all(
        self, log: MeasurementLog[Score], evaluator: _Evaluator, rung: Rung, progress: Progress
    ) -> tuple[Score, ...]:
        """Return the scores of all sub-nets on a rung."""
        super_net = evaluator.super_net
        stage = self._stage(super_net, rung)
        missing = [net for net in self.nets if log.get(stage, net.architecture) is None]
        if missing:
            title = f"fine-tuning {rung.amount:,} iterations" if rung.way is Way.FINE_TUNING else "shared weights"
            with progress(f"{super_net.plans}, {title}", len(missing)) as bar:
                for net in missing:
                    score = evaluator.evaluate(rung, net)
                    log.add(stage, net.architecture, score)
                    evaluator.forget(rung, net)
                    bar.advance(score.dsc)
        found = [log.get(stage, net.architecture) for net in self.nets]
        return tuple(score for score in found if score is not None)


class _Evaluator:
    """A super-net that is loaded when something is to be scored with it."""

    def __init__(self, predictor: SuperNetPredictor, super_net: JudgedSuperNet) -> None:
        self.predictor, self.super_net = predictor, super_net
        # Named by all that a fine-tuning depends on, since an unfinished one goes on from its file.
        name = digest(predictor._stage(super_net, predictor._rung(Way.FINE_TUNING, 0)))
        self.files = FinalistFiles(predictor.folder.path / "fine_tuning" / name)

    @cached_property
    def inner(self) -> SubNetEvaluator:
        mine = self.predictor
        network = load_super_net(mine.dataset, self.super_net.checkpoint)[1].to(mine.device)
        return SubNetEvaluator(mine.dataset, mine.fold, network, mine.scorer, self.files, mine.settings, mine.device)

    def evaluate(self, rung: Rung, net: RankedNet) -> Score:
        return self.inner.evaluate(rung, net.architecture)

    def forget(self, rung: Rung, net: RankedNet) -> None:
        """Remove fine-tuned weights, of which the score alone is of interest here."""
        self.files.weights(rung, net.architecture).unlink(missing_ok=True)
