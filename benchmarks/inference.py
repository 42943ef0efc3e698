"""How fast searched networks predict, beside nnU-Net's PlainConvUNet of the same training memory.

    python -m benchmarks.inference DATASET CONFIGURATION -p PLANS --width 8

The U-Net is that of the plans, its features starting at WIDTH; architectures are drawn from the search space at the
memory that training it takes (predicted, patch and batch of the plans). All predict whole preprocessed cases, and a
synthetic cube, through nnU-Net's own predictor: sliding window, Gaussian weights, no mirroring, one process. They take
turns. Weights are random, which takes as long.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn

from benchmarks.step_costs import Step, seconds_in_turn
from benchmarks.tables import median_of, ratios, section, table
from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.cost import Quantity, format_bytes
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.network_costs import NetworkCosts, PlannedNetwork, network_costs
from nnunet_hypersegnas.search import BudgetSampler, Interval, Limits
from nnunet_hypersegnas.space import to_architectures

U_NET = "PlainConvUNet"
TOLERANCE = 0.03  # of the U-Net's memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-p", default="nnUNetPlans", help="plans [%(default)s]")
    parser.add_argument("--width", type=int, default=32, help="the U-Net's features at full resolution [%(default)s]")
    parser.add_argument("--sampled", type=int, default=5, help="architectures [%(default)s]")
    parser.add_argument("--cases", type=int, default=5, help="of the data set [%(default)s]")
    parser.add_argument("--cube", type=int, default=256, help="side of the synthetic image; 0 for none [%(default)s]")
    parser.add_argument("--cube-patch", type=int, default=64, help="side of the patch that predicts it [%(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--device", default="cpu", help="[%(default)s]")
    args = parser.parse_args()
    device = torch.device(args.device)
    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration)
    u_net = with_width(dataset, args.width)
    costs = network_costs(u_net, cuda=device.type == "cuda")
    networks = {U_NET: [built(u_net)], "searched": searched(dataset, costs, args.sampled, device.type)}
    loaded = dataset.cases()
    cases = [torch.from_numpy(loaded.load_case(name)[0][:]) for name in loaded.identifiers[: args.cases]]
    patch = tuple(dataset.configuration.patch_size)
    with section(
        f"Inference at equal training memory ({args.dataset}, plans {args.p}, {args.device}, "
        f"{torch.get_num_threads()} threads, {args.repeats} repeats)"
    ):
        rows = [row(f"{len(cases)} cases", dataset, networks, cases, patch, device, args.repeats)]
        if args.cube:
            cube = [torch.randn(dataset.input_channels, *(args.cube,) * 3)]
            cube_patch = (args.cube_patch,) * 3
            rows.append(row(f"cube of {args.cube}", dataset, networks, cube, cube_patch, device, 1))
        table(rows)
        print(
            f"\nThe U-Net: {costs.parameters:,} parameters, {costs.multiply_adds / 1e9:.2f} G multiply-adds a patch of "
            f"{'x'.join(map(str, patch))}, {format_bytes(costs.memory_bytes)} in training. Searched: {args.sampled} "
            f"networks within {TOLERANCE:.0%} of that memory, median (lowest to highest). Seconds an image."
        )


def with_width(dataset: PreprocessedDataset, width: int) -> PlannedNetwork:
    """Return the plans' U-Net with features that start at a width, and end at as many times that as they did."""
    plans = deepcopy(dataset.plans)
    configuration = plans["configurations"][dataset.configuration_name]
    kwargs = configuration["architecture"]["arch_kwargs"]
    first = kwargs["features_per_stage"][0]
    kwargs["features_per_stage"] = [features * width // first for features in kwargs["features_per_stage"]]
    return PlannedNetwork(
        name=U_NET, plans=plans, dataset_json=dataset.dataset_json, configuration=dataset.configuration_name
    )


def built(planned: PlannedNetwork) -> nn.Module:
    architecture = planned.plans["configurations"][planned.configuration]["architecture"]
    labels = planned.dataset_json["labels"]
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        len(planned.dataset_json["channel_names"]),
        len(labels),
        deep_supervision=False,
    )


def searched(dataset: PreprocessedDataset, costs: NetworkCosts, count: int, device_type: str) -> list[nn.Module]:
    """Return random searched networks of the same training memory."""
    model = cost_model(dataset, device_type)
    low, high = costs.memory_bytes * (1 - TOLERANCE), costs.memory_bytes * (1 + TOLERANCE)
    sampler = BudgetSampler(model.space, model.predict, Limits({Quantity.MEMORY: Interval(low, high)}), 0)
    sizes = dataset.input_channels, dataset.label_manager.num_segmentation_heads
    return [
        SearchedNet(*sizes, **searched_net_kwargs(model.space, architecture))
        for architecture in to_architectures(sampler.take(count))
    ]


def row(
    images_name: str,
    dataset: PreprocessedDataset,
    networks: Mapping[str, Sequence[nn.Module]],
    images: Sequence[Tensor],
    patch: Sequence[int],
    device: torch.device,
    repeats: int,
) -> dict[str, str]:
    predictor = _predictor(dataset, patch, device)
    turns = {
        (name, i): _turn(predictor, network.to(device).eval(), images)
        for name, group in networks.items()
        for i, network in enumerate(group)
    }
    seconds = {
        key: statistics.median(times) / len(images)
        for key, times in seconds_in_turn(turns, repeats, device, wall=True).items()
    }
    baseline = seconds.pop((U_NET, 0))
    return {
        "images": images_name,
        "patch": "x".join(map(str, patch)),
        f"{U_NET} (s)": f"{baseline:.2f}",
        "searched (s)": median_of(list(seconds.values())),
        "ratio": ratios([value / baseline for value in seconds.values()]),
    }


def _predictor(dataset: PreprocessedDataset, patch: Sequence[int], device: torch.device) -> nnUNetPredictor:
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=device.type == "cuda", device=device, allow_tqdm=False
    )
    configuration = deepcopy(dataset.configuration)
    configuration.configuration["patch_size"] = list(patch)
    predictor.manual_initialization(
        nn.Identity(), dataset.plans_manager, configuration, None, dict(dataset.dataset_json), "", None
    )
    return predictor


def _turn(predictor: nnUNetPredictor, network: nn.Module, images: Sequence[Tensor]) -> Callable[[], Step]:
    def predict() -> None:
        predictor.network = network
        for image in images:
            predictor.predict_sliding_window_return_logits(image)

    return lambda: predict


if __name__ == "__main__":
    main()
