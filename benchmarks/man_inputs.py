"""What each of the things that MAN is told gives a super-net that keeps its MAN.

    python -m benchmarks.man_inputs DATASET CONFIGURATION FOLD -p PLANS

The sub-nets of an ablation are scored with shared weights on crops of the fold's validation cases: as trained, and with
the average image, the average architecture, or both in the place of what MAN is told. The average is where MAN's inputs
are all zero; of both together MAN has no scalars but ones, which is the super-net without MAN.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tables import section, table
from nnunet_hypersegnas.architectures import OneShotNetwork
from nnunet_hypersegnas.evaluation import paired_test
from nnunet_hypersegnas.nnunet.ablation.sub_nets import SubNet, spread_sub_nets
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.nnunet.super_net_loading import load_with_man
from nnunet_hypersegnas.nnunet.validation_crops import keep_validation_crops
from nnunet_hypersegnas.nnunet.variants import KEEP_MAN

Hook = Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]


def told(*, architecture: bool, image: bool) -> Hook:
    """Return what puts the average in the place of what the HyperNet is not to be told."""

    def hook(_: nn.Module, given: tuple[Any, ...]) -> tuple[Tensor, Tensor, Any]:
        code, image_vector, rows = given
        return code * architecture, image_vector * image, rows

    return hook


WAYS = {
    "as trained": told(architecture=True, image=True),
    "average image": told(architecture=True, image=False),
    "average architecture": told(architecture=False, image=True),
    "neither, so without MAN": told(architecture=False, image=False),
}


def scores(network: OneShotNetwork, way: Hook, nets: Sequence[SubNet], scorer: CropScorer) -> np.ndarray:
    """Return the DSC of each sub-net, mean over labels and cases."""
    assert network.man is not None
    handle = network.man.hyper_net.register_forward_pre_hook(way)
    found = []
    for net in nets:
        network.take(net.architecture, 0.0)
        found.append(scorer.score(network).dsc)
    handle.remove()
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument("configuration", metavar="CONFIGURATION")
    parser.add_argument("fold", metavar="FOLD", type=int)
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans")
    parser.add_argument("-tr", metavar="TRAINER", default=KEEP_MAN.trainer)
    parser.add_argument("--architectures", type=int, default=25)
    parser.add_argument("--validation-cases", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    dataset, device = PreprocessedDataset.find(args.dataset, args.p, args.configuration), torch.device(args.device)
    network = load_with_man(dataset, dataset.trained_folder(args.tr, args.fold) / "checkpoint_final.pth").network
    network.to(device)
    costs = cost_model(dataset, device.type)
    nets = spread_sub_nets(costs.space, costs.predict, args.architectures)
    rows = []
    with section(f"What MAN is told, {args.p}"), tempfile.TemporaryDirectory() as folder:
        crops = keep_validation_crops(Path(folder) / "crops", dataset, args.fold, args.validation_cases)
        scorer = CropScorer(dataset, crops, device)
        found = {name: scores(network, way, nets, scorer) for name, way in WAYS.items()}
        without = found["neither, so without MAN"]
        for name, values in found.items():
            row = {"MAN is told": name, "DSC": f"{values.mean():.4f}", "more than without MAN (95 %)": ""}
            if values is not without:
                gain = paired_test(values, without).difference
                row["more than without MAN (95 %)"] = f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
            rows.append(row)
        table(rows)


if __name__ == "__main__":
    main()
