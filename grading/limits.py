"""Work on strangers' files: each task in a process of its own, with limits on its memory and its time.

    for number, answer in run_limited(check, [(root,), (other_root,)], workers=2):
        ...                     # check(*task), or a UserError that says why there is no answer

On Linux the process is a fork of this one, so that PyTorch and the images are loaded once and shared; it may map MEMORY
bytes beyond them (PyTorch alone maps 0.6 GB), and compute for SECONDS. Elsewhere it starts from nothing, and its time
alone is limited.
"""

import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from common import UserError, printable

try:
    import resource
except ImportError:  # on Windows
    resource = None

MEMORY = 3 * 2**29  # bytes
SECONDS = 60  # of computing
TOO_LARGE = f"needs more than {MEMORY / 2**30:g} GB"
TOO_SLOW = f"takes more than {SECONDS} s"
WAITING = 4  # times as long may pass: other programs may need the processor too
FORKS = sys.platform == "linux"  # where libraries stand it, and where the system keeps to a limit on memory


def run_limited(function: Callable, tasks: list[tuple], workers: int) -> Iterator[tuple[int, object]]:
    """Yield (number of a task, function(*task)) in the order in which they end, at most so many at once. Where a task
    exceeds a limit or raises an exception, a UserError takes the place of what the function returns."""
    waiting = list(enumerate(tasks))
    running = {}  # {pipe: (number, process, when it is ended)}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number, task = waiting.pop(0)
                pipe, process = _start(function, task)
                running[pipe] = (number, process, time.monotonic() + WAITING * SECONDS)
            pipe, (number, process, deadline) = min(running.items(), key=lambda item: item[1][2])
            ready = connection.wait(running, max(0, deadline - time.monotonic()))
            if ready:
                [pipe, *_] = ready
                number, process, _ = running[pipe]
            answer = _receive(pipe, process)
            del running[pipe]
            yield number, answer
    finally:
        for _, process, _ in running.values():
            _end(process)


def _start(function, task):
    """(the pipe that will bring the answer, the process)."""
    context = get_context("fork" if FORKS else "spawn")
    pipe, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, function, task))
    process.start()
    sender.close()  # its only end is now the process's: where that dies, the pipe says so
    return pipe, process


def _work(sender, function, task):
    """In the new process: send function(*task), or a UserError."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after a Ctrl-C the first process ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    threadpool_limits(1)
    if FORKS:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        memory = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    try:
        answer = function(*task)
    except UserError as error:
        answer = error
    except MemoryError:
        answer = UserError(TOO_LARGE)
    except (Exception, SystemExit) as error:  # what we did not foresee must not cost the other tasks
        answer = UserError(printable(f"{type(error).__name__}: {str(error)[:100]}"))
    sender.send(answer)


def _receive(pipe, process):
    """The answer of a process that is ready, or has used up its time, or has died."""
    try:
        return pipe.recv() if pipe.poll() else UserError(TOO_SLOW)
    except (EOFError, OSError):
        process.join()
        if FORKS and process.exitcode == -signal.SIGXCPU:
            return UserError(TOO_SLOW)
        return UserError(f"{TOO_LARGE}, or its process was ended (status {process.exitcode})")
    finally:
        _end(process)


def _end(process):
    process.kill()
    process.join()
