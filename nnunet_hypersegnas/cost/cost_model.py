"""Predicted costs of a space's architectures: a sum and a maximum over tables, without building a network.

Training memory is the most that is allocated at any time of a training step (after the first one, when the momentum
is there), by tensors alone. What depends on the machine is not counted: CUDA's context, cuDNN's workspaces, what the
caching allocator rounds up or holds back. `hsnas_calibrate` measures that part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from nnunet_hypersegnas.cost.layer_costs import LayerCosts, layer_costs
from nnunet_hypersegnas.cost.output_costs import output_costs, stem_costs
from nnunet_hypersegnas.cost.quantities import Quantity
from nnunet_hypersegnas.cost.setup import FP32, TensorSizes, TrainingSetup
from nnunet_hypersegnas.cost.tape import IntArray
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.space import Architecture, SearchSpace

LARGEST_TABLE = 3**10  # rows; up to four scales, whatever a layer can be is computed once


class CostError(HyperSegNASError):
    """A cost that cannot be told."""


@dataclass(frozen=True, kw_only=True)
class PredictedCosts:
    """Costs of n architectures, arrays of shape (n,).

    Attributes:
        memory_bytes: peak training memory of tensors.
        parameters: number of parameters.
        multiply_adds: multiply-adds of all convolutions in the forward pass of one patch; norms, activations and
            interpolation are not counted, as usual, and a multiply-add is one operation (some count it as two FLOPs).
        weight_bytes: weights, gradients and optimizer states.
        activation_bytes: kept by autograd for the backward pass, loss included.
        latency_ms: of one patch's forward pass; None where no calibration gives it.
    """

    memory_bytes: IntArray
    parameters: IntArray
    multiply_adds: IntArray
    weight_bytes: IntArray
    activation_bytes: IntArray
    latency_ms: np.ndarray | None = None

    def of(self, quantity: Quantity) -> np.ndarray:
        """Return one of the four costs.

        Raises:
            CostError: the latency, without a calibration.
        """
        if quantity is Quantity.LATENCY:
            if self.latency_ms is None:
                raise CostError(
                    "latency is predicted from a calibration only; run hsnas_calibrate on this machine first"
                )
            return self.latency_ms
        by_quantity = {
            Quantity.MEMORY: self.memory_bytes,
            Quantity.PARAMETERS: self.parameters,
            Quantity.MULTIPLY_ADDS: self.multiply_adds,
        }
        return by_quantity[quantity]

    @property
    def transient_bytes(self) -> IntArray:
        """What the peak holds beside weights and activations; negative where these never meet in full."""
        return self.memory_bytes - self.weight_bytes - self.activation_bytes


class CostModel:
    """Predicts the costs of architectures.

    Args:
        space: the search space.
        setup: how its networks are trained.

    Raises:
        SetupError: the patch does not fit the space.
    """

    def __init__(self, space: SearchSpace, setup: TrainingSetup) -> None:
        self.space, self.setup = space, setup
        self._sizes = TensorSizes(space, setup)
        self._maps = _by_mask(self._sizes.maps)
        self._stems = stem_costs(self._sizes)
        self._outputs = output_costs(self._sizes)
        self._base = 3 ** np.arange(len(space.edges))
        self._table: LayerCosts | None = None
        if 3 ** len(space.edges) <= LARGEST_TABLE:
            self._table = layer_costs(self._sizes, np.arange(3 ** len(space.edges))[:, None] // self._base % 3)

    def predict(self, codes: np.ndarray) -> PredictedCosts:
        """Predict the costs of architectures in canonical form, given as codes of shape (n, L, E)."""
        layers, index = self._layer_costs(codes)
        parameters = layers.parameters[index]
        multiply_adds = layers.multiply_adds[index].sum(1)
        saved, sources, kept_sources = layers.saved_bytes[index], layers.sources[index], layers.kept_sources[index]
        handed_on = layers.handed_on[index]
        forward, backward = layers.forward_peak_bytes[index], layers.backward_peak_bytes[index]

        stems = sources[:, 0]
        parameters_before = self._stems.parameters[stems]
        saved_before = self._stems.saved_bytes[stems]  # by all layers before
        peak = np.zeros(len(codes), np.int64)
        saved_by_layer = np.empty_like(saved)
        kept = np.zeros(len(codes), np.int64)  # nodes that an earlier layer keeps: a mask
        for layer in range(codes.shape[1]):
            entering = self._maps[sources[:, layer] & ~kept]
            np.maximum(peak, saved_before + entering + forward[:, layer], out=peak)
            saved_before = saved_before + saved[:, layer] + self._maps[kept_sources[:, layer] & ~kept]
            saved_by_layer[:, layer] = saved_before
            kept = (kept | kept_sources[:, layer]) & handed_on[:, layer]
        outputs = layers.targets[index[:, -1]]
        of_output = self._outputs
        gradients = FP32 * of_output.parameters[outputs, kept]
        np.maximum(peak, saved_before + of_output.peak_bytes[outputs, kept], out=peak)
        held = of_output.logit_bytes[outputs, kept]
        for layer in reversed(range(codes.shape[1])):
            np.maximum(peak, held + saved_by_layer[:, layer] + gradients + backward[:, layer], out=peak)
            gradients = gradients + FP32 * parameters[:, layer]

        total = parameters.sum(1) + parameters_before + of_output.parameters[outputs, kept]
        always = FP32 * total * (1 + self.setup.optimizer_states) + self._sizes.image
        always = always + of_output.target_bytes[outputs, kept]
        if (
            self.setup.autocast
        ):  # on CUDA the optimizer works on all gradients at once; weight decay makes a copy of them
            beside = total
        else:  # on CPU on one after the other, with two copies
            largest = layers.largest_weights[index].max(1)
            beside = 2 * np.maximum(largest, of_output.largest_weights[outputs, kept])
            beside = np.maximum(beside, 2 * self._stems.largest_weights[stems])
        step = held + FP32 * (total + beside)
        return PredictedCosts(
            memory_bytes=always + np.maximum(peak, step),
            parameters=total,
            multiply_adds=multiply_adds + self._stems.multiply_adds[stems] + of_output.multiply_adds[outputs, kept],
            weight_bytes=FP32 * total * (2 + self.setup.optimizer_states),
            activation_bytes=saved_before + of_output.saved_bytes[outputs, kept],
        )

    def predict_all(self, architectures: Sequence[Architecture]) -> PredictedCosts:
        """Predict the costs of some architectures.

        Raises:
            ArchitectureError: one of them is of another search space.
        """
        for architecture in architectures:
            architecture.check_fits(self.space)
        return self.predict(
            np.array([a.codes for a in architectures]).reshape(-1, self.space.layers, len(self.space.edges))
        )

    def predict_one(self, architecture: Architecture) -> PredictedCosts:
        """Predict the costs of one architecture, as arrays of one value."""
        return self.predict_all([architecture])

    @property
    def digest(self) -> str:
        """Names all that predictions depend on beside the architecture: search space and training setup."""
        content = json.dumps([self.space.to_json(), asdict(self.setup)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def _layer_costs(self, codes: np.ndarray) -> tuple[LayerCosts, IntArray]:
        """Return a table of rows, and the index of each layer's row in it, shape (n, L)."""
        index = codes @ self._base
        if self._table is not None:
            return self._table, index
        used, inverse = np.unique(index, return_inverse=True)
        return layer_costs(self._sizes, used[:, None] // self._base % 3), inverse.reshape(index.shape)


def _by_mask(sizes: Sequence[int]) -> IntArray:
    """Return the sum of the sizes of a mask's scales, for every mask."""
    masks = np.arange(1 << len(sizes))
    return np.sum([(masks >> scale & 1) * size for scale, size in enumerate(sizes)], axis=0)
