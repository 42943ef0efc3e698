"""What the search costs and finds: rungs against full evaluation, evolution against random, speed, storage.

Run from the repository's root, on a data set with a trained super-net; each part prints a table in Markdown:

    python -m benchmarks.search rungs DATASET CONFIGURATION FOLD -p PLANS --memory 30MB --tolerance 10MB
    python -m benchmarks.search strategies DATASET CONFIGURATION FOLD -p PLANS --memory 30MB --tolerance 10MB
    python -m benchmarks.search speed DATASET CONFIGURATION FOLD -p PLANS --memory 30MB --tolerance 10MB
    python -m benchmarks.search storage [--storage postgresql://...]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.nnunet.sub_net_evaluator import FinalistFiles, SubNetEvaluator
from nnunet_hypersegnas.nnunet.super_net_loading import load_super_net
from nnunet_hypersegnas.nnunet.validation_crops import keep_validation_crops
from nnunet_hypersegnas.search import (
    BudgetSampler,
    Contest,
    Lead,
    Rung,
    Score,
    SearchSettings,
    Way,
    budgets_of,
    climb,
    gather,
    open_storage,
    open_study,
    predicted_candidates,
    rungs_of,
    sqlite_url,
    strategy_of,
    work,
)
from nnunet_hypersegnas.space import Architecture, SearchSpace, rng_for, sample

TOP = 10


class Bench:
    """One trained super-net with its validation crops, evaluated by one CPU thread or GPU."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        torch.set_num_threads(1)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration)
        checkpoint = dataset.trained_folder(args.tr, args.fold) / "checkpoint_final.pth"
        self.space, network = load_super_net(dataset, checkpoint)
        self.predict = cost_model(dataset, device.type).predict
        crops = keep_validation_crops(folder / "crops", dataset, args.fold, args.validation_cases)
        self.scorer = CropScorer(dataset, crops, device)
        self.batch_size = dataset.configuration.batch_size
        self.budget = budgets_of([args.memory], {}, tolerance=args.tolerance)[0]
        self.settings = SearchSettings(candidates=args.candidates, finalists=args.finalists)
        files = FinalistFiles(folder / "finalists")
        self.evaluator = SubNetEvaluator(
            dataset, args.fold, network.to(device), self.scorer, files, self.settings, device
        )

    def sampler(self, seed: int) -> BudgetSampler:
        return BudgetSampler(self.space, self.predict, self.budget.limits, seed)

    def scoring_rungs(self, settings: SearchSettings) -> list[Rung]:
        patches = len(self.scorer.patches)
        rungs = rungs_of(settings, crops=len(self.scorer.crops), patches=patches, batch_size=self.batch_size)
        return [rung for rung in rungs if rung.way is not Way.FINE_TUNING]

    def evaluate(self, rung: Rung, architectures: Sequence[Architecture]) -> dict[Architecture, Score]:
        return {architecture: self.evaluator.evaluate(rung, architecture) for architecture in architectures}


def rungs(bench: Bench, args: argparse.Namespace) -> Iterator[str]:
    """Compare going by rungs with scoring all candidates in full."""
    rungs_ = bench.scoring_rungs(bench.settings)
    crops = rungs_[-1]
    yield "| seed | scored in full | cost | top-10 recall | winner kept | Spearman by rung | cost by rungs | time |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for seed in range(args.seeds):
        candidates = predicted_candidates(bench.sampler(seed), args.candidates)
        scores, seconds = {}, {}
        for rung in rungs_:
            started = time.perf_counter()
            found = bench.evaluate(rung, [c.architecture for c in candidates])
            seconds[rung] = (time.perf_counter() - started) / len(candidates)
            scores[rung] = np.array([found[c.architecture].dsc for c in candidates])
        climbing, cost, took = np.arange(len(candidates)), 0, 0.0
        for rung in rungs_:
            climbing = climbing[np.argsort(-scores[rung][climbing], kind="stable")] if rung is rungs_[0] else climbing
            cost, took = cost + rung.cost_patches * len(climbing), took + seconds[rung] * len(climbing)
            following = rungs_[rungs_.index(rung) + 1 :]
            if following:
                order = np.argsort(-scores[rung][climbing], kind="stable")
                climbing = climbing[order][: following[0].keep]
        best = np.argsort(-scores[crops], kind="stable")
        recall = len(set(best[:TOP]) & set(climbing)) / TOP
        full = crops.cost_patches * len(candidates)
        correlations = ", ".join(f"{spearmanr(scores[r], scores[crops])[0]:.2f}" for r in rungs_[:-1])
        yield (
            f"| {seed} | {len(candidates)} | {full:,} | {recall:.1f} | {'yes' if best[0] in climbing else 'no'} | "
            f"{correlations} | {cost:,} (1/{full / cost:.1f}) | 1/{seconds[crops] * len(candidates) / took:.1f} |"
        )


def strategies(bench: Bench, args: argparse.Namespace) -> Iterator[str]:
    """Compare where candidates come from, at equal numbers of scored patches."""
    yield "| seed | strategy | cost | best DSC | mean of the best four | seconds |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for seed in range(args.seeds):
        for strategy in ("random", "evolution"):
            settings = replace(bench.settings, strategy=strategy, seed=seed)
            rungs_ = bench.scoring_rungs(settings)
            cost, started = 0, time.perf_counter()

            def evaluate(rung: Rung, architectures: Sequence[Architecture]) -> dict[Architecture, Score]:
                nonlocal cost
                cost += rung.cost_patches * len(architectures)
                return bench.evaluate(rung, architectures)

            contest = Contest(bench.budget, strategy_of(settings, bench.sampler(seed)), [])
            gather([contest], rungs_[0], predicted_candidates, evaluate)
            climb([contest], rungs_, evaluate)
            best = [c.scores[rungs_[-1]].dsc for c in contest.best(4)]
            took = time.perf_counter() - started
            yield f"| {seed} | {strategy} | {cost:,} | {best[0]:.4f} | {np.mean(best):.4f} | {took:.0f} |"
            yield from (f"<!-- {line} -->" for line in contest.strategy.report)


def speed(bench: Bench, args: argparse.Namespace) -> Iterator[str]:
    """How many candidates a second by rung and workers, and how much of a worker's time is spent in the network."""
    architectures = [c.architecture for c in predicted_candidates(bench.sampler(0), 24)]
    yield "| rung | workers | candidates a second | patches a second | share of time in the network |"
    yield "| --- | --- | --- | --- | --- |"
    for rung in bench.scoring_rungs(bench.settings):
        for workers in args.workers:
            with ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(args,)
            ) as pool:
                list(pool.map(_evaluate, [rung] * 2 * workers, architectures))  # the processes are there, and warm
                started = time.perf_counter()
                inside = sum(pool.map(_evaluate, [rung] * len(architectures), architectures))
                took = time.perf_counter() - started
            rate = len(architectures) / took
            share = inside / took / workers
            yield f"| {rung.title} | {workers} | {rate:.2f} | {rung.cost_patches * rate:.0f} | {share:.0%} |"


_worker: Bench
_inside = 0.0  # seconds that a process of `speed` has spent in the network


def _start(args: argparse.Namespace) -> None:
    global _worker
    _worker = Bench(args, Path(tempfile.mkdtemp()))
    network = _worker.evaluator.network
    forward = network.forward

    def timed(image: torch.Tensor) -> torch.Tensor:
        global _inside
        started = time.perf_counter()
        logits = forward(image)
        if logits.is_cuda:
            torch.cuda.synchronize()
        _inside += time.perf_counter() - started
        return logits

    network.forward = timed


def _evaluate(rung: Rung, architecture: Architecture) -> float:
    """Evaluate and return the seconds spent in the network."""
    before = _inside
    _worker.evaluate(rung, [architecture])
    return _inside - before


def _nothing(rung: Rung, architecture: Architecture) -> Score:
    return Score(dsc_by_label={"a": 0.5, "b": 0.5})


def _work(url: str, name: str) -> None:
    study = open_study(open_storage(url), name)
    work(study, _nothing, lambda idle: idle and "over" in study.user_attrs)


def storage(args: argparse.Namespace) -> Iterator[str]:
    """What an evaluation costs in the storage alone: evaluations that do nothing, by number of workers."""
    space = SearchSpace.from_stages([[1] * 3, *[[2] * 3] * 3], [[3] * 3] * 4, (32, 64, 128, 256), layers=12)
    architectures = list({sample(space, rng_for(0, "bench", i)) for i in range(args.candidates)})
    rung = Rung(way=Way.PATCHES, amount=1, keep=len(architectures), cost_patches=1)
    yield "| storage | workers | evaluations | ms an evaluation |"
    yield "| --- | --- | --- | --- |"
    with tempfile.TemporaryDirectory() as folder:
        urls = {"SQLite": sqlite_url(Path(folder) / "a.db"), "journal file": f"journal:{folder}/a.log"}
        if args.storage:
            urls["PostgreSQL"] = args.storage
        for title, url in urls.items():
            for workers in (1, 2, 4):
                name = f"bench {workers} {time.time()}"
                lead = Lead(open_study(open_storage(url), name, create=True))
                with _pool(workers) as pool:
                    list(pool.map(math.sqrt, range(workers)))  # the processes are there
                    futures = [pool.submit(_work, url, name) for _ in range(workers)]
                    started = time.perf_counter()
                    lead.evaluate(rung, architectures)
                    took = time.perf_counter() - started
                    lead.study.set_user_attr("over", True)
                    for future in futures:
                        future.result()
                yield f"| {title} | {workers} | {len(architectures)} | {1e3 * took / len(architectures):.1f} |"


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, default in (("rungs", 320), ("strategies", 200), ("speed", 200)):
        part = parts.add_parser(name)
        part.add_argument("dataset")
        part.add_argument("configuration")
        part.add_argument("fold", type=int)
        part.add_argument("-p", default="nnUNetPlans")
        part.add_argument("-tr", default="HyperSegNASSupernetTrainer")
        part.add_argument("--memory", required=True)
        part.add_argument("--tolerance", default="300MB")
        part.add_argument("--candidates", type=int, default=default)
        part.add_argument("--finalists", type=int, default=4)
        part.add_argument("--seeds", type=int, default=3)
        part.add_argument("--validation-cases", type=int)
        part.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="of `speed`")
    part = parts.add_parser("storage")
    part.add_argument("--storage")
    part.add_argument("--candidates", type=int, default=200)
    args = parser.parse_args()
    if args.part == "storage":
        lines = storage(args)
        for line in lines:
            print(line, flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        for line in {"rungs": rungs, "strategies": strategies, "speed": speed}[args.part](bench, args):
            print(line, flush=True)


if __name__ == "__main__":
    main()
