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
    where = f" in process {rank()} of {world_size()}" if world_size() > 1 else ""
    with _prepared_process():
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


@contextmanager
def _prepared_process():
    """Signals, warnings, and standard streams that may be closed or of another encoding. In a notebook, where the
    process lives on after `%run`, all is put back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers.items():
        if handler in (signal.default_int_handler, signal.SIG_DFL):  # not where a shell's `nohup` ignores it
            signal.signal(number, _stop)
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda message, *_: f"warning: {printable(message)}\n"
    if rank():
        warnings.simplefilter("ignore")  # rank 0 warns
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell's >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may have letters that the terminal lacks
    try:
        yield
    finally:
        if hasattr(sys, "ps1"):  # a prompt, as of IPython, to which the process returns
            warnings.formatwarning = format_warning
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _stop(number, _):
    """Stop the script by the first signal, and ignore all that follow, while it says how to continue and ends."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


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


def progress(batches, what: str) -> tqdm:
    """The batches with a progress bar on standard error, where that is a terminal."""
    rows = 20  # tqdm would hide the bar of a terminal that reports 0 rows
    return tqdm(batches, what, unit="batch", leave=False, disable=rank() > 0 or not _has_terminal(), nrows=rows)


def _has_terminal():
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is no standard error, or it is closed
        return False


def say(text: str) -> None:
    """Write a message to standard error; where that is impossible, the script continues without it."""
    with suppress(AttributeError, OSError, ValueError):  # there is none, it is full, it is closed
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _discard_stdout():
    with suppress(AttributeError, OSError, ValueError):  # not every stream has a file
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
