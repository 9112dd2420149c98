"""Training in several processes, one for each core or GPU, which share the images between them.

    torchrun --nproc-per-node 2 train_script.py --model VAE --batch-size 8      # as one process with batches of 16

torchrun starts the processes and numbers them; PyTorch averages their gradients. Without torchrun there is one process,
of rank 0, and the functions below return their input unchanged.
"""

import os
import sys
from contextlib import contextmanager

import torch
from torch.nn.parallel import DistributedDataParallel

from common import UserError


def rank() -> int:
    """The number of this process, from 0."""
    return _from_torchrun("RANK", 0)


def world_size() -> int:
    """How many processes train together."""
    return _from_torchrun("WORLD_SIZE", 1)


def _from_torchrun(name, alone):
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone


def init_distributed(name: str) -> torch.device:
    """The device of --device for this process (a GPU of its own, where there are GPUs), connected to the others.

    Raises UserError where this machine has none of that name, or fewer GPUs than processes.
    """
    device = _find_device(name)
    if world_size() == 1:
        return device
    if device.type == "cuda":
        number = _from_torchrun("LOCAL_RANK", 0)
        gpus = torch.cuda.device_count()
        if number >= gpus:
            raise UserError(f"this is process {number + 1} on this machine, which has {gpus} GPUs; use --device cpu")
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UserError(f"several processes train on CPUs or on CUDA, not on {device.type}: use --device cpu")
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return device


def _find_device(name):
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # which one depends on the build of PyTorch
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device {name} does not work on this machine ({reason}); use --device cpu") from None
    return torch.device(name)


def shutdown() -> None:
    """Wait until rank 0 is done, and end this process, without what Python does at its end.

    DistributedDataParallel keeps gloo's threads alive, also after `destroy_process_group`, and one that asks for the
    interpreter when it is gone aborts the process: one training of many would end with an error after its last line.
    """
    if world_size() > 1 and torch.distributed.is_initialized():  # not every script connects
        broadcast(None)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def data_parallel(model: torch.nn.Module) -> torch.nn.Module:
    """The model to call in training: every backward pass ends with the mean of all processes' gradients. Only what
    passes through the model's `forward` is averaged."""
    return model if world_size() == 1 else DistributedDataParallel(model)


def all_reduce_sum(numbers: list[float]) -> list[float]:
    """The sum of each number over all processes, the same in every one."""
    if world_size() == 1:
        return numbers
    sums = torch.tensor(numbers, dtype=torch.float64)
    torch.distributed.all_reduce(sums)
    return sums.tolist()


def broadcast(value):
    """The value held by rank 0."""
    if world_size() == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box)
    return box[0]


@contextmanager
def rank_0_first():
    """Let rank 0 run the block before the others, which find what it downloads."""
    if rank():
        broadcast(None)
    yield
    if rank() == 0:
        broadcast(None)
