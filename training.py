"""What every training script shares: the epoch loop, its flags and its files. It knows no model.

`fit` trains, prints one line an epoch, saves the best and the last state, stops early and resumes.
"""

import argparse
import math
import os
import re
import signal
import sys
import time
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from checkpoints import UserError, hold, load_checkpoint, printable, save_checkpoint, take_over
from parallel import RANK, WORLD_SIZE, add_up, average_gradients, from_rank_0, leave

PROJECT = Path(__file__).resolve().parent
FLOWERS_ROOT, MNIST_ROOT = "./flowers", "./mnist"  # below PROJECT, wherever a script is called from
FLOWERS_HELP = f"one sub-folder of images a class, instead of {FLOWERS_ROOT}"
MNIST_HELP = f"folder that holds MNIST/raw/, instead of {MNIST_ROOT}"
MOST = 10_000_000  # that a flag may ask for, of anything
ANOTHER_ENDED = "closed by peer|reset by peer|Broken pipe|[Tt]imed out|remote process"  # in what PyTorch raises then
LR_DECAY, LR_DECAY_EVERY = 0.9, 5  # the coursework's schedule for plain SGD: x 0.9 every 5 epochs


# ---------------------------------------------------------------- flags


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds to each flag's help its default, where it has one. A dict is a default that hangs on another flag."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        if isinstance(action.default, dict):
            defaults = [f"{value} for {key}" for key, value in action.default.items() if value is not None]
            return f"{action.help} (default: {', '.join(defaults)})"
        return super()._get_help_string(action)


def add_data_flags(parser: argparse.ArgumentParser, data_root: str = FLOWERS_HELP) -> None:
    """--data, --data-root (with its help) and --output-root, the same in every script."""
    group = parser.add_argument_group("data and output")
    group.add_argument(
        "--data", choices=["auto", "real", "synthetic"], default="auto", help="auto: real if there, else synthetic"
    )
    group.add_argument("--data-root", metavar="DIR", type=Path, help=data_root)
    add_output_flag(group)


def add_output_flag(parser) -> None:
    """--output-root, for a parser or a group of flags."""
    parser.add_argument(
        "--output-root", metavar="DIR", type=folder, default=PROJECT, help="where models/ and vis/ are, or will be"
    )


def add_training_flags(parser: argparse.ArgumentParser, *, epochs, batch_size, lr, patience) -> None:
    """The flags of `fit` with a script's own defaults; a dict is one that hangs on another flag (`choose_defaults`)."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", metavar="N", type=positive_int, default=epochs, help="most epochs to train")
    group.add_argument("--batch-size", metavar="N", type=positive_int, default=batch_size, help="images a step")
    group.add_argument("--lr", metavar="X", type=positive_float, default=lr, help="learning rate, at its highest")
    group.add_argument(
        "--patience", metavar="N", type=positive_int, default=patience, help="stop after N validations without a gain"
    )
    group.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the weights and the image order")
    group.add_argument("--resume", action="store_true", help="continue from models/LastModel_*")


def add_torch_flags(parser: argparse.ArgumentParser) -> None:
    """--device and --amp, for what PyTorch trains."""
    group = parser.add_argument_group("hardware")
    group.add_argument("--device", metavar="NAME", default="auto", help="cuda, mps or cpu; auto: the first there is")
    group.add_argument("--amp", action="store_true", help="bfloat16 where it is precise enough, on any device")


def choose_defaults(parser: argparse.ArgumentParser, args, flag: str, names: list[str]) -> None:
    """Where a default is a dict {choice of flag: value}, put the value for the choice made."""
    for name in names:
        default = parser.get_default(name)
        if getattr(args, name) is default:
            setattr(args, name, default[getattr(args, flag)])


def pick_device(name: str):
    """The torch.device of --device. Raises UserError where this machine has none of that name."""
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # which one depends on the build of PyTorch
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device {name} does not work on this machine ({reason}); use --device cpu") from None
    return torch.device(name)


def folder(text: str) -> Path:
    """argparse type: a folder, or the name of one that is to be made."""
    if os.path.exists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is a file, expected a folder")
    return Path(text)


def natural_int(text: str) -> int:
    """argparse type: 0, 1, 2, ..., as far as generators of random numbers take them."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2^63 - 1")
    return value


def positive_int(text: str) -> int:
    """argparse type: 1, 2, 3, ..."""
    value = int(text)
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {MOST}")
    return value


def positive_float(text: str) -> float:
    """argparse type: a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


class Terminated(KeyboardInterrupt):
    """SIGTERM: the machine shuts down, or somebody sent `kill`."""


def run_script(main) -> None:
    """Run a script's main(): status 1 and one line for what the user can mend, 130 for Ctrl-C, 143 for SIGTERM."""
    warnings.formatwarning = lambda message, *_: f"warning: {printable(message)}\n"
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell's >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may have letters that the terminal lacks
    signal.signal(signal.SIGTERM, _terminate)
    of_process = f" in process {RANK} of {WORLD_SIZE}" if WORLD_SIZE > 1 else ""
    if RANK:
        warnings.simplefilter("ignore")  # rank 0 warns
    try:
        main()
        sys.stdout.flush()
        leave()
    except BrokenPipeError:
        _close_stdout()
    except (UserError, OSError) as error:
        sys.exit(f"error{of_process}: {printable(error)}")
    except (MemoryError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        if WORLD_SIZE > 1 and re.search(ANOTHER_ENDED, str(error)):
            sys.exit(f"error{of_process}: another process of this training has ended, and it cannot go on alone")
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", reason):
            raise
        sys.exit(f"error{of_process}: not enough memory, use smaller batches or images, or --device cpu ({reason})")
    except KeyboardInterrupt as stop:
        if RANK == 0:
            print(stop.args[0] if stop.args else "stopped", file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)


def _terminate(*_):
    raise Terminated


def log(line: str) -> None:
    """One line of the log, above the progress bar where both go to one terminal. Where nobody reads the log any more,
    as after `| head -1`, the training goes on without it."""
    if RANK:
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


# ---------------------------------------------------------------- training


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Seed NumPy and PyTorch for one epoch. Every epoch starts from its own seed, so that
    a resumed run draws the same numbers as one that was never stopped, and every process its own."""
    import torch

    torch.ones(1).exp()  # MKL's vector functions choose their code in the first call; two threads can choose apart
    torch.backends.cudnn.deterministic = True  # as on the CPU, the same numbers in each run
    mixed = int(np.random.SeedSequence([seed, epoch, RANK]).generate_state(1)[0])
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def torch_steps(args, model, inputs, measure, optimizer, scheduler, average_decay: float | None = None):
    """(train_step, valid_step, state, load_state) of a PyTorch model, as `fit` takes them.

    inputs(images, labels) -> what the model is called with, on its device, the images first.
    measure(outputs, images) -> (the loss to minimise, what the log says of it: {"loss": ..., ...}).
    The scheduler goes one step on with every batch.
    average_decay: where given, what is validated and saved is the exponential moving average of the weights, of which
    each step keeps this share.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    decay = get_ema_multi_avg_fn(average_decay) if average_decay else None
    averaged = AveragedModel(model, multi_avg_fn=decay) if average_decay else None
    in_training, kept = average_gradients(model), averaged.module if averaged else model

    def train_step(images, labels, epoch):
        batch = inputs(images, labels)
        with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=args.amp):
            outputs = in_training(*batch)
        loss, metrics = measure(outputs, batch[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if averaged:
            averaged.update_parameters(model)
        return metrics

    @torch.no_grad()
    def valid_step(images, labels):
        batch = inputs(images, labels)
        return measure(kept(*batch), batch[0])[1]

    def state():
        weights = {name: weight.cpu() for name, weight in kept.state_dict().items()}  # to open without a GPU
        saved = {"state_dict": weights, "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        return {**saved, "in_training": model.state_dict()} if averaged else saved

    def load_state(state):
        if state["optimizer"]["state"]:
            _make_moments(model, optimizer)
        schedule = take_over(state["scheduler"], scheduler.state_dict())
        if schedule["last_epoch"] != state["steps"]:
            raise ValueError(f"its schedule is at step {schedule['last_epoch']}, expected {state['steps']}")
        optimizer.load_state_dict(take_over(state["optimizer"], optimizer.state_dict()))
        scheduler.load_state_dict(schedule)
        kept.load_state_dict(state["state_dict"])
        if averaged:
            model.load_state_dict(take_over(state["in_training"], model.state_dict()))
            averaged.n_averaged.fill_(state["steps"])

    return train_step, valid_step, state, load_state


def _make_moments(model, optimizer):
    """Let the optimizer make its tensors, for their shapes, in a step that the loading of a state then overwrites."""
    import torch

    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def fit(
    args, about: dict, suffix: str, loaders, train_step, valid_step, state, load_state, summary=lambda best: []
) -> list[dict]:
    """Train to args.epochs, or until args.patience epochs in a row brought no better validation loss.

    about: what the checkpoints say beside the weights: model, config, data; settings: what else --resume must keep.
    suffix: of the checkpoint files, ".pkl" or ".pth".
    loaders: one of (images, labels) to train on, one to validate on.
    train_step(images, labels, epoch) takes one optimizer step -> {"loss": mean over the batch before it, ...}.
    valid_step(images, labels) -> the same, without a step.
    state() -> {"state_dict": weights, and all else that the next step depends on}; load_state(that dict, and steps:
    how many were taken).
    summary(checkpoint of the best epoch) -> lines for the log before its last one.
    Returns the history, one dict an epoch: epoch, train_loss, valid_loss, ...
    Raises UserError where a loss is not finite, or where --resume does not fit.
    """
    folder, started, history = args.output_root / "models", time.perf_counter(), []
    best_path, last_path = (folder / f"{kind}Model_{about['model']}{suffix}" for kind in ("Best", "Last"))
    about = {**about, "seed": args.seed, "settings": _settings(args, about)}

    def save(history):
        if RANK:
            return
        now = {**about, **state(), "history": history}
        if history and _stale(history) == 0:
            save_checkpoint(best_path, {**about, "state_dict": now["state_dict"], **history[-1], "history": history})
        save_checkpoint(last_path, now)

    shown = [f"{k} {v}" for k, v in vars(args).items() if k not in ("output_root", "resume") and v is not None]
    shown += [f"processes {WORLD_SIZE}"] if WORLD_SIZE > 1 else []
    if from_rank_0(about["data"]) != about["data"]:
        raise UserError("this process finds other images than the first one: all need the same")
    with nullcontext() if RANK else hold(folder, about["model"]), _how_to_go_on(history):
        log(f"Settings: {', '.join(shown)}")
        if args.resume:
            history += _resume(last_path, best_path, about["settings"], load_state, len(loaders[0]))
        if not history:
            save(history)  # from now on --resume means this run
        batches = (args.epochs - len(history)) * sum(map(len, loaders))
        with tqdm(total=batches, unit="batch", disable=RANK > 0 or None, dynamic_ncols=True) as bar:
            while len(history) < args.epochs and _stale(history) < args.patience:
                row = _epoch(args.seed, len(history) + 1, loaders, train_step, valid_step, bar)
                save([*history, row])
                history.append(row)
                log(epoch_line(history))
        if RANK == 0:
            _finish(args, best_path, history, summary)
            print(f"finished after {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return history


@contextmanager
def _how_to_go_on(history):
    """Give a Ctrl-C, or SIGTERM, a message that says what is saved."""
    try:
        yield
    except KeyboardInterrupt as stop:
        after = f"after epoch {len(history)}" if history else "from the beginning"
        stop.args = (f"stopped; the same command with --resume goes on {after}",)
        raise


def _finish(args, best_path, history, summary):
    """Give the best checkpoint the whole history, for the loss curves, and print the last lines of the log."""
    if len(history) < args.epochs:
        print(f"stopped early: no better validation loss within --patience {args.patience}", file=sys.stderr)
    best = {**load_checkpoint(best_path, made_by="a new training run"), "history": history}
    save_checkpoint(best_path, best)
    for line in summary(best):
        log(line)
    log(last_line(best, best_path.name))


def average(step, loader, where: str, bar) -> dict:
    """The mean of what step(images, labels) returns, {"loss": ..., ...}, each batch weighted by its number of samples,
    over all processes.

    where: what is averaged, for the progress bar and for the UserError where a loss is not finite.
    """
    totals, samples = {}, 0
    for number, (images, labels) in enumerate(loader, 1):
        metrics = step(images, labels)
        if not math.isfinite(metrics["loss"]):
            raise UserError(f"{where}, batch {number}: the loss is {metrics['loss']}; try a smaller --lr")
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + float(value) * len(images)
        samples += len(images)
        bar.set_postfix_str(f"{where}, loss {metrics['loss']:.4g}", refresh=False)
        bar.update()
    *sums, samples = add_up([*totals.values(), samples])
    return {name: total / samples for name, total in zip(totals, sums, strict=True)}


def _epoch(seed, epoch, loaders, train_step, valid_step, bar):
    """Train and validate; returns a row of the history, in the order of the log."""
    seed_everything(seed, epoch)
    train = average(partial(train_step, epoch=epoch), loaders[0], f"epoch {epoch}, training", bar)
    seed_everything(seed)  # the same draws in every validation, so that its losses compare
    valid = average(valid_step, loaders[1], f"epoch {epoch}, validation", bar)
    row = {"epoch": epoch}
    for name in train:
        row |= {f"train_{name}": train[name], f"valid_{name}": valid[name]}
    return row


def _stale(history):
    """How many epochs ago the best validation loss was reached, the earliest of equals."""
    losses = [row["valid_loss"] for row in history]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def _settings(args, about):
    """What must be the same for --resume to go on as if it had never stopped."""
    free = ("data", "data_root", "output_root", "epochs", "patience", "resume", "device", "image_size")
    flags = {name: value for name, value in vars(args).items() if name not in free}
    return {
        **flags,
        **({"processes": WORLD_SIZE} if WORLD_SIZE > 1 else {}),
        **about["config"],
        **about.get("settings", {}),
        "data": f"{about['data']['name']} {about['data']['fingerprint']}",
    }


def epoch_line(history: list[dict]) -> str:
    """The log's line of the last epoch of the history."""
    epoch, *losses = history[-1].items()
    fields = [f"{key.replace('_', ' ').title().replace('Kl', 'KL')}: {value:.6f}" for key, value in losses]
    return ", ".join([f"Epoch: {epoch[1]}", *fields]) + (" *" if _stale(history) == 0 else "")


def last_line(best: dict, file_name: str) -> str:
    """The log's last line, of the best checkpoint in models/."""
    return f"Best Valid Loss: {best['valid_loss']:.6f} (epoch {best['epoch']}), saved to models/{file_name}"


def _load_last(path, best_path, settings):
    """The last state, or None where there is none. Raises UserError where it is not this run's."""
    if not path.exists():
        print(f"--resume: there is no {path}; starting from the beginning", file=sys.stderr)
        return None
    last = load_checkpoint(path, made_by="a new training run")
    before = last["settings"]
    names = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
    if names:
        different = "; ".join(f"{name} was {before.get(name)}, now {settings.get(name)}" for name in names)
        raise UserError(f"cannot resume {path}: {different}. Use the same, or leave out --resume")
    if last["history"]:
        _check_same_run(load_checkpoint(best_path, made_by="a new training run"), last, best_path)
    return last


def _check_same_run(best, last, best_path):
    """Raise UserError unless one run saved both; a kill can fall between the two, so one may know an epoch more."""
    rows = zip(best["history"], last["history"], strict=False)
    if best["settings"] != last["settings"] or any(a != b for a, b in rows):
        raise UserError(f"cannot resume: {best_path} is of another run. Leave out --resume")


def _resume(path, best_path, settings, load_state, steps_per_epoch):
    """Load the last state, log its epochs again, and return its history, or [] where there is none."""
    last = from_rank_0(None if RANK else _load_last(path, best_path, settings))
    if last is None:
        return []
    try:
        load_state({**last, "steps": len(last["history"]) * steps_per_epoch})
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"cannot resume {path}: it lacks what training goes on from ({reason})") from None
    if RANK == 0:
        where = f"after epoch {len(last['history'])}" if last["history"] else "at the beginning"
        print(f"resumed {where} of {path}", file=sys.stderr)
    for epoch in range(len(last["history"])):
        log(epoch_line(last["history"][: epoch + 1]))
    return last["history"]
