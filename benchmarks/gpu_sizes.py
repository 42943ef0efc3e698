"""How much `benchmarks.gpu_task04` does: on a large GPU, and as a test on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnunet_hypersegnas.nnunet.msd_steps import STOCK_PLANS

SMALL_PLANS = "BenchmarkStock"  # nnU-Net's own network, made small


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """About how long the steps take."""

    convert: float
    preprocess: float
    cost: float
    speed: float
    supernet: float
    calibrate: float
    search: float
    stock: float
    searched: float
    compare: float


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is done.

    Attributes:
        layers, channels: the super-net's search space.
        patch_size, batch_size, stock_channels: of small plans; None takes what nnU-Net has planned.
        supernet_epochs, iterations_per_epoch: of the super-net; annealing (a fifth) and warm-up (a tenth) included.
        measured: architectures whose cost is predicted and measured.
        calibrated: networks that the search's predictions are calibrated by.
        budgets, tolerance: training memory of the searched networks, and how far below it they may lie.
        candidates, finalists, finetune_iterations: of the search under each budget.
        validation_cases: that score candidates; None takes all.
        trainer: nnU-Net's, the same for the searched networks and for nnU-Net's own.
        processes: that preprocess.
        variables: of the environment, for the trainings of `trainer`.
        speed: whether the benchmarks of speed are run.
        seconds: of each step.
    """

    layers: int
    channels: tuple[int, ...]
    patch_size: int | None
    batch_size: int | None
    stock_channels: tuple[int, ...] | None
    supernet_epochs: int
    iterations_per_epoch: int
    measured: int
    calibrated: int
    budgets: tuple[str, ...]
    tolerance: str
    candidates: int
    finalists: int
    finetune_iterations: int
    validation_cases: int | None
    trainer: str
    processes: int
    variables: Mapping[str, str]
    speed: bool
    seconds: Seconds

    @property
    def stock_plans(self) -> str:
        """Plans of nnU-Net's own network."""
        return STOCK_PLANS if self.patch_size is None else SMALL_PLANS


# For a large GPU with 16 cores, from what an H200 took: 13 s for 250 iterations of nnU-Net's own network (19 s where
# three are trained beside a super-net), 9 s for those of a super-net of 6 layers, 32 ms for a step of one of 12; 12 s a
# process to start, 25 s to validate a fold, 6 to 7 s to measure a network in a process of its own, and 1 s in one that
# measures many. The search and the training of what it finds are estimated.
GPU = Sizes(
    layers=12,
    channels=(32, 64, 128, 256),
    patch_size=None,
    batch_size=None,
    stock_channels=None,
    supernet_epochs=8,
    iterations_per_epoch=250,
    measured=50,
    calibrated=6,
    # As the process' memory, of which several hundred MB are CUDA's; half of all random sub-nets have 0.45 to 0.7 GB of
    # tensors, and the largest one 2.5 GB.
    budgets=("1500MB", "2GB"),
    tolerance="300MB",
    candidates=32,
    finalists=4,
    finetune_iterations=250,
    validation_cases=16,
    trainer="nnUNetTrainer_5epochs",
    processes=8,
    variables={"nnUNet_compile": "f"},  # compiling takes longer than it saves in so few iterations
    speed=True,
    seconds=Seconds(
        convert=20,
        preprocess=40,
        cost=80,
        speed=60,
        supernet=180,
        calibrate=60,
        search=240,
        stock=120,
        searched=130,
        compare=25,
    ),
)
CPU = Sizes(
    layers=3,
    channels=(4, 6, 8),
    patch_size=16,
    batch_size=2,
    stock_channels=(4, 6, 8),
    supernet_epochs=3,
    iterations_per_epoch=6,
    measured=8,
    calibrated=6,
    budgets=("1700KB", "2200KB"),
    tolerance="400KB",
    candidates=4,
    finalists=2,
    finetune_iterations=3,
    validation_cases=2,
    trainer="nnUNetTrainer_1epoch",
    processes=2,
    variables={},
    speed=False,
    seconds=Seconds(
        convert=5,
        preprocess=20,
        cost=10,
        speed=10,
        supernet=30,
        calibrate=15,
        search=30,
        stock=30,
        searched=30,
        compare=15,
    ),
)
