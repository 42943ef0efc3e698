"""How good segmentations are: DSC, NSD, their statistics, and what the Medical Segmentation Decathlon wants to see."""

from nnunet_hypersegnas.evaluation.msd import TASKS, MsdTask, TaskError, known_task, msd_task
from nnunet_hypersegnas.evaluation.published_figures import PublishedModel, published_models
from nnunet_hypersegnas.evaluation.scoring import EmptyReference, Pair, Score, Scoring, score_pairs
from nnunet_hypersegnas.evaluation.statistics import Interval, PairedTest, mean_intervals, paired_test
from nnunet_hypersegnas.evaluation.structures import LabelsError, LabelSet, Structure
from nnunet_hypersegnas.evaluation.summary import (
    MEAN,
    StructureSummary,
    describe,
    describe_folds,
    summarize,
    table_of,
    write_csv,
    write_summary,
)
from nnunet_hypersegnas.evaluation.surfaces import surface_dice

__all__ = [
    "MEAN",
    "TASKS",
    "EmptyReference",
    "Interval",
    "LabelSet",
    "LabelsError",
    "MsdTask",
    "Pair",
    "PairedTest",
    "PublishedModel",
    "Score",
    "Scoring",
    "Structure",
    "StructureSummary",
    "TaskError",
    "describe",
    "describe_folds",
    "known_task",
    "mean_intervals",
    "msd_task",
    "paired_test",
    "published_models",
    "score_pairs",
    "summarize",
    "surface_dice",
    "table_of",
    "write_csv",
    "write_summary",
]
