"""Training in several processes, one for each core or GPU, that share the images out among them.

    torchrun --nproc-per-node 2 train_script.py --model VAE --batch-size 8      # as one process with batches of 16

torchrun starts the processes and tells each its rank; PyTorch averages their gradients. Without torchrun there is one
process, its rank is 0, and what is here hands back what it gets.
"""

import os
import sys
from contextlib import contextmanager

from checkpoints import UserError

LAUNCHED = "TORCHELASTIC_RUN_ID" in os.environ  # by torchrun
RANK, WORLD_SIZE = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE")) if LAUNCHED else (0, 1)


def join(device):
    """Meet the other processes; returns the torch.device of this one: a GPU of its own, where there are GPUs.

    Raises UserError where there are fewer of them than processes.
    """
    if WORLD_SIZE == 1:
        return device
    import torch

    if device.type == "cuda":
        number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= gpus:
            raise UserError(f"this is process {number + 1} of this machine, which has {gpus} GPUs; use --device cpu")
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UserError(f"several processes train on CPUs or on CUDA, not on {device.type}: use --device cpu")
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return device


def leave() -> None:
    """Wait until rank 0 is done, and end this process, without what Python does at its end.

    DistributedDataParallel keeps gloo's threads alive, also after `destroy_process_group`, and one that asks for the
    interpreter when it is gone aborts the process: one training of many would end with an error after its last line.
    """
    if WORLD_SIZE == 1:
        return
    import torch

    if torch.distributed.is_initialized():  # other scripts do not join
        from_rank_0(None)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def average_gradients(model):
    """The model to call in training: every backward pass ends with the mean of all processes' gradients."""
    if WORLD_SIZE == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model)


def add_up(numbers: list[float]) -> list[float]:
    """The sum of each number over all processes, the same in every one."""
    if WORLD_SIZE == 1:
        return numbers
    import torch

    sums = torch.tensor(numbers, dtype=torch.float64)
    torch.distributed.all_reduce(sums)
    return sums.tolist()


def from_rank_0(value):
    """What this is in the process of rank 0."""
    if WORLD_SIZE == 1:
        return value
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box)
    return box[0]


@contextmanager
def rank_0_first():
    """What one process leaves on the disk for the others, as a download, is done by rank 0 before they begin."""
    if RANK:
        from_rank_0(None)
    yield
    if RANK == 0:
        from_rank_0(None)
