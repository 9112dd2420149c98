"""How a script starts and ends, writes its log and its messages, and seeds its random numbers."""

import os
import re
import signal
import sys
import time
import warnings
from contextlib import contextmanager, suppress

import numpy as np
import torch
from tqdm import tqdm

from common import UserError, printable
from common.distributed import rank, shutdown, world_size

# parts of PyTorch's messages: another process of the same training has ended; there is not enough memory
PEER_LOST = "closed by peer|reset by peer|Broken pipe|[Tt]imed out|remote process"
OUT_OF_MEMORY = "out of memory|allocate memory|size calculation overflowed"

BUSY_SHARE = 0.75  # of the time of its threads that PyTorch computes, at least, where no other program needs a core


class Terminated(KeyboardInterrupt):
    """SIGTERM: the machine shuts down, or somebody sent `kill`."""


def run_script(main) -> None:
    """Run a script's main(): status 1 and one line for what the user can fix, 130 for Ctrl-C, 143 for SIGTERM."""
    _set_up_process()
    where = f" in process {rank()} of {world_size()}" if world_size() > 1 else ""
    try:
        main()
        sys.stdout.flush()
        shutdown()
    except BrokenPipeError:
        _discard_stdout()
    except UserError as error:
        sys.exit(f"error{where}: {printable(error)}")
    except OSError as error:
        if error.filename is None:  # the user can fix a file or a folder; anything else is our own bug
            raise
        sys.exit(f"error{where}: cannot use {printable(error.filename)} ({error.strerror})")
    except (MemoryError, RuntimeError) as error:
        sys.exit(f"error{where}: {_explain(error)}")
    except KeyboardInterrupt as stop:
        if rank() == 0:
            say(stop.args[0] if stop.args else "stopped")
        sys.exit(128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT))


def _explain(error):
    """What the user can do about an error of PyTorch's. Raises it again where that is nothing."""
    reason = str(error).partition("\n")[0]
    if world_size() > 1 and re.search(PEER_LOST, str(error)):
        return "another process of this training has ended, and this one cannot continue alone"
    if isinstance(error, MemoryError) or re.search(OUT_OF_MEMORY, reason):
        return f"not enough memory, use smaller batches or images, or --device cpu ({reason})"
    raise error


def _set_up_process():
    """Signals, warnings, and standard streams that may be closed or of another encoding."""
    signal.signal(signal.SIGTERM, _terminate)
    warnings.formatwarning = lambda message, *_: f"warning: {printable(message)}\n"
    if rank():
        warnings.simplefilter("ignore")  # rank 0 warns
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell's >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may have letters that the terminal lacks


def _terminate(*_):
    raise Terminated


def log(line: str) -> None:
    """Write a line of the log to standard output, above the progress bar. Where nobody reads it any more, as after
    `| head -1`, the training continues without it. Raises UserError where the disk is full."""
    if rank():
        return
    try:
        tqdm.write(printable(line))
        sys.stdout.flush()
    except BrokenPipeError:
        say("warning: standard output is closed, there is no log from here on")
        _discard_stdout()
    except OSError as error:
        _discard_stdout()
        raise UserError(f"cannot write the log to standard output ({error.strerror})") from None


def say(text: str) -> None:
    """Write a message to standard error; where that is impossible, the script continues without it."""
    with suppress(AttributeError, OSError, ValueError):  # there is none, it is full, it is closed
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _discard_stdout():
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends


@contextmanager
def warn_of_waiting(device: str):
    """Warn, once per process, where PyTorch's threads wait for each other because another program needs a core."""
    wall_start = time.perf_counter()
    cpu_start = time.process_time()
    yield
    wall = time.perf_counter() - wall_start
    cpu = time.process_time() - cpu_start
    threads = torch.get_num_threads()
    if device == "cpu" and threads > 1 and wall > 1 and cpu < BUSY_SHARE * threads * wall:
        remedy = "if another program is busy, the environment variable OMP_NUM_THREADS=1 makes this one faster"
        warnings.warn(f"{threads} threads wait for each other: {remedy}", stacklevel=1)  # the same text is shown once


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Seed NumPy and PyTorch for one epoch. Every epoch has a seed of its own, so that a resumed run draws the same
    numbers as one that was never stopped, and so has every process of torchrun."""
    # MKL's vector functions choose their code in the first call; two threads at once can choose differently
    torch.ones(1).exp()
    torch.backends.cudnn.deterministic = True  # the same numbers in each run
    mixed = int(np.random.SeedSequence([seed, epoch, rank()]).generate_state(1)[0])
    np.random.seed(mixed)
    torch.manual_seed(mixed)
