"""Super-net training on several GPUs: what nnU-Net's own wrapping lacks."""

# No postponed annotations here: torch looks at those of a communication hook.

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def wrap(network: nn.Module, device: torch.device, *, average_over_users: bool) -> DistributedDataParallel:
    """Return the network wrapped so that a step need not use all of it.

    What no rank uses in a step gets no gradient at all, so that optimizers leave it alone as they do on one GPU.

    Args:
        network: on the device.
        device: this rank's.
        average_over_users: average a gradient over the ranks that used its parameter, not over all ranks; for ranks
            that train different sub-nets.
    """
    wrapped = DistributedDataParallel(
        network, device_ids=[device.index] if device.type == "cuda" else None, find_unused_parameters=True
    )
    if average_over_users:
        wrapped.register_comm_hook(None, _average_over_users)
    return wrapped


def _average_over_users(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Communication hook of DistributedDataParallel; a rank used a parameter where its gradient is not all zero."""
    gradients = bucket.gradients()  # views of the buffer, in which the sum arrives
    users = torch.stack([gradient.any() for gradient in gradients]).to(bucket.buffer().dtype)
    dist.all_reduce(users)
    arriving = dist.all_reduce(bucket.buffer(), async_op=True).get_future()

    def divide(arrived: torch.futures.Future[list[Tensor]]) -> Tensor:
        for gradient, count in zip(gradients, users.clamp(min=1), strict=True):
            gradient.div_(count)
        return arrived.value()[0]

    return arriving.then(divide)
