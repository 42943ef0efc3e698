import itertools
from types import SimpleNamespace

import torch

from nnunet_hypersegnas.trainers.validation_patches import ValidationPatches


def loader(*references):
    """What nnU-Net's single-threaded augmenter looks like: batches of two patches, a target for each of two heads."""

    def batch(pair):
        full = torch.stack(pair)
        return {"data": torch.zeros(2, 1, 4, 4, 4), "target": [full, full[..., ::2, ::2, ::2]]}

    batches = itertools.cycle([batch(references[i : i + 2]) for i in range(0, len(references), 2)])
    return SimpleNamespace(data_loader=batches)


def patch(*labels):
    reference = torch.zeros(1, 4, 4, 4)
    for i, label in enumerate(labels):
        reference[0, i, 0, 0] = label
    return reference


def kept(references, count):
    patches = ValidationPatches(loader(*references), count, seed=0).patches
    assert all(p["data"].shape[0] == 1 and len(p["target"]) == 2 for p in patches)
    return [p["target"][0][0] for p in patches]


def test_patches_with_most_labels_come_first_and_others_in_their_order():
    drawn = [patch(), patch(2), patch(1, 2), patch(-1), patch(1), patch(3, 1, 2)]
    found = kept(drawn, 6)
    for a, b in zip(found, [drawn[i] for i in (5, 2, 1, 4, 0, 3)], strict=True):
        assert torch.equal(a, b)


def test_regions_count_by_channel():
    one = torch.zeros(3, 4, 4, 4, dtype=torch.bool)
    one[0, 0] = True
    two = one.clone()
    two[2, 1] = True
    assert [int(p.flatten(1).any(1).sum()) for p in kept([one, two], 2)] == [2, 1]
