"""How a script ends, writes its log and seeds its random numbers."""

import os
import re
import signal
import sys
import time
import warnings
from contextlib import contextmanager

import numpy as np
import torch
from tqdm import tqdm

from training import UserError, printable
from training.distributed import rank, shutdown, world_size
from training.flags import SPIN_VARIABLES

# in what PyTorch raises: another process of the same training has ended; there is not enough memory
PEER_LOST = "closed by peer|reset by peer|Broken pipe|[Tt]imed out|remote process"
OUT_OF_MEMORY = "out of memory|allocate memory|size calculation overflowed"

# process time over wall time of two threads is 1.95 on two free cores and 1.3 beside a busy program, where they wait
# busily; else 1.55 and 0.98
MOST_CORES, BARELY_ONE_CORE = 0.75, 1.1  # the first for each thread


class Terminated(KeyboardInterrupt):
    """SIGTERM: the machine shuts down, or somebody sent `kill`."""


def run_script(main) -> None:
    """Run a script's main(): status 1 and one line for what the user can mend, 130 for Ctrl-C, 143 for SIGTERM."""
    _set_up_process()
    in_process = f" in process {rank()} of {world_size()}" if world_size() > 1 else ""
    try:
        main()
        sys.stdout.flush()
        shutdown()
    except BrokenPipeError:
        _close_stdout()
    except UserError as error:
        sys.exit(f"error{in_process}: {printable(error)}")
    except OSError as error:
        if error.filename is None:  # a file or folder the user can mend; anything else is a fault of ours
            raise
        sys.exit(f"error{in_process}: cannot use {printable(error.filename)} ({error.strerror})")
    except (MemoryError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        if world_size() > 1 and re.search(PEER_LOST, str(error)):
            sys.exit(f"error{in_process}: another process of this training has ended, and it cannot go on alone")
        if isinstance(error, RuntimeError) and not re.search(OUT_OF_MEMORY, reason):
            raise
        sys.exit(f"error{in_process}: not enough memory, use smaller batches or images, or --device cpu ({reason})")
    except KeyboardInterrupt as stop:
        if rank() == 0:
            print(stop.args[0] if stop.args else "stopped", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT))


def _set_up_process():
    """Signals, warnings and standard streams that may be closed or of another encoding."""
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # `parse_first` had another
    warnings.formatwarning = lambda message, *_: f"warning: {printable(message)}\n"
    if rank():
        warnings.simplefilter("ignore")  # rank 0 warns
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell's >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may have letters that the terminal lacks


def _terminate(*_):
    raise Terminated


def log(line: str) -> None:
    """One line of the log, above the progress bar where both go to one terminal. Where nobody reads the log any more,
    as after `| head -1`, the training goes on without it."""
    if rank():
        return
    try:
        tqdm.write(printable(line))
        sys.stdout.flush()
    except BrokenPipeError:
        print("warning: standard output is closed, there is no log from here on", file=sys.stderr)
        _close_stdout()
    except OSError as error:
        _close_stdout()
        raise UserError(f"cannot write the log to standard output ({error.strerror})") from None


def _close_stdout():
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends


@contextmanager
def warn_of_waiting(device: str):
    """Warn, once in a process, where PyTorch's threads get too little time: each waits for the others, and one alone
    would not. Threads that wait busily use all cores where these are free, others more than one."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    threads = torch.get_num_threads()
    is_busy_waiting = sys.platform == "linux" and not SPIN_VARIABLES & os.environ.keys()
    expected = MOST_CORES * threads if is_busy_waiting else BARELY_ONE_CORE
    if device == "cpu" and threads > 1 and wall > 1 and cpu < expected * wall:
        remedy = "if another program is busy, the environment variable OMP_NUM_THREADS=1 makes this one faster"
        warnings.warn(f"{threads} threads wait for each other: {remedy}", stacklevel=1)  # the same text is shown once


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Seed NumPy and PyTorch for one epoch. Every epoch starts from its own seed, so that
    a resumed run draws the same numbers as one that was never stopped, and every process its own."""
    torch.ones(1).exp()  # MKL's vector functions choose their code in the first call; two threads can choose apart
    torch.backends.cudnn.deterministic = True  # as on the CPU, the same numbers in each run
    mixed = int(np.random.SeedSequence([seed, epoch, rank()]).generate_state(1)[0])
    np.random.seed(mixed)
    torch.manual_seed(mixed)
