"""A super-net that learns nothing is noticed while it trains."""

from pathlib import Path

import numpy as np

from nnunet_hypersegnas.trainers.unfound_labels import FIRST_AFTER, UnfoundLabels
from tests.trainers.conftest import BLOCK

NOTHING, SOME = np.zeros(2), np.array([4.0, 0.0])
SHOWN = np.array([9.0, 9.0])


def epochs_with_warnings(labels, found, shown, epochs):
    return [epoch for epoch in range(1, epochs + 1) if labels.after_epoch(found, shown)]


def test_a_label_that_nobody_finds_is_named_and_more_rarely_again():
    labels = UnfoundLabels(["organ", "lesion"])
    assert epochs_with_warnings(labels, SOME, SHOWN, 45) == [
        FIRST_AFTER,
        2 * FIRST_AFTER,
        4 * FIRST_AFTER,
        8 * FIRST_AFTER,
    ]
    labels = UnfoundLabels(["organ", "lesion"])
    warnings = [labels.after_epoch(SOME, SHOWN) for _ in range(FIRST_AFTER)]
    assert "found lesion for 5 epochs" in warnings[-1] and "organ" not in warnings[-1]


def test_a_label_that_is_found_again_begins_anew():
    labels = UnfoundLabels(["organ", "lesion"])
    assert epochs_with_warnings(labels, NOTHING, SHOWN, 4) == []
    assert labels.after_epoch(np.ones(2), SHOWN) is None
    assert epochs_with_warnings(labels, NOTHING, SHOWN, 5) == [5]


def test_a_label_that_no_patch_shows_is_not_missed():
    labels = UnfoundLabels(["organ", "lesion"])
    assert epochs_with_warnings(labels, SOME, np.array([9.0, 0.0]), 20) == []


def test_the_log_of_a_training_that_finds_nothing_says_so(make_trainer):
    block = {**BLOCK, "man": "none", "epochs": 9, "annealing_epochs": 1, "warmup_epochs": 1, "iterations_per_epoch": 1}
    trainer = make_trainer({**block, "initial_lr": 1e-9})
    trainer.initialize()
    head = trainer.network.forward

    def background(*args, **kwargs):  # whatever it is shown
        output = head(*args, **kwargs)
        outputs = output if isinstance(output, list) else [output]
        for one in outputs:
            one.data[:, 0] = 1e4
        return output

    trainer.network.forward = background
    trainer.run_training()
    log = Path(trainer.log_file).read_text()
    assert log.count("WARNING: no reference sub-net has found organ") == 1
    before = log[: log.index("WARNING: no reference")]
    assert before.count("Pseudo dice of sub-nets") == 1 + 5  # the warm-up does not count
