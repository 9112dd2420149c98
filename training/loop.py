"""The epoch loop: one line of the log an epoch, the best and the last state saved, early stopping, --resume."""

import math
import sys
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from tqdm import tqdm

from training import UserError, is_synthetic
from training.checkpoints import keep_copies, load_checkpoint, run_lock, save_checkpoint
from training.distributed import all_reduce_sum, broadcast, rank, world_size
from training.script import log, seed_everything, warn_of_waiting

MADE_BY = "a new training run"


def fit(args, about: dict, loaders, learner) -> dict:
    """Train to args.epochs, or until args.patience epochs in a row brought no better validation loss.

    about: what the checkpoints say beside the weights: model, config, data; settings: what else --resume must keep.
    loaders: one of (images, labels) to train on, one to validate on, and perhaps one to test the best weights on, once.
    learner: has train_step(images, labels, epoch) and valid_step(images, labels), which return {"loss": mean over the
    batch, ...}; state_dict() -> {"state_dict": weights, and all else that the next step depends on}, and
    load_state_dict(that); load_weights(weights), for the test; suffix: of the checkpoint files, ".pkl" or ".pth".

    Returns the best checkpoint with the whole history, one dict an epoch: epoch, train_loss, valid_loss, ..., and with
    test_loss, ... and test_images where there is a test; processes other than rank 0 do without the weights. Raises
    UserError where a loss is not finite, or --resume does not fit.
    """
    folder, started, history = args.output_root / "models", time.perf_counter(), []
    best_path, last_path = (folder / f"{kind}Model_{about['model']}{learner.suffix}" for kind in ("Best", "Last"))
    about = {**about, "seed": args.seed, "settings": _settings(args, about)}
    if broadcast(about["data"]) != about["data"]:
        raise UserError("this process finds other images than the first one: all need the same")
    with nullcontext() if rank() else run_lock(folder, about["model"]), _how_to_go_on(history):
        log(_settings_line(args))
        if args.resume:
            history += _resume(last_path, best_path, about["settings"], learner)
        if not history:
            _keep_replaced(best_path, last_path, about["data"])
            _save(best_path, last_path, about, learner, history)  # from now on --resume means this run
        batches = (args.epochs - len(history)) * sum(map(len, loaders[:2])) + sum(map(len, loaders[2:]))
        with tqdm(total=batches, unit="batch", disable=rank() > 0 or None, dynamic_ncols=True) as bar:
            while len(history) < args.epochs and epochs_since_best(history) < args.patience:
                with warn_of_waiting(vars(args).get("device", "cpu")):
                    row = _epoch(args.seed, len(history) + 1, loaders, learner, bar)
                _save(best_path, last_path, about, learner, [*history, row])
                history.append(row)
                log(epoch_line(history))
            best = _finish(best_path, {**about, "history": history}, loaders[2:], learner, bar)
    if rank() == 0:
        if len(history) < args.epochs:
            print(f"stopped early: no better validation loss within --patience {args.patience}", file=sys.stderr)
        print(f"finished after {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return best


def warn_unless_below(mean_image_loss: float, best: dict) -> None:
    """A line of the log where the best checkpoint has learnt nothing: answering with one image gives no larger loss."""
    loss = min(row["valid_loss"] for row in best["history"])  # which every process has
    if loss >= mean_image_loss:
        found = f"the best validation loss is {loss:.3g}, and answering every image with the mean one"
        log(f"Warning: {found} gives {mean_image_loss:.3g}: try another --lr or more --epochs")


def _keep_replaced(best_path, last_path, data):
    """Copy the checkpoints that a new run on that data will replace. Raises UserError where it must not."""
    if rank():
        return
    best, last = _read(best_path), _read(last_path)
    name = str(best.get("data", {}).get("name", "unknown images"))
    if best and is_synthetic(data) and not is_synthetic({"name": name}):
        problem = f"{best_path} was trained on {name}, and the stand-in never takes its place"
        raise UserError(f"{problem}: give this run a folder of its own with --output-root")
    paths = [best_path, last_path] if last.get("history", True) else [best_path]  # the last had no epoch yet
    folder = keep_copies([path for path in paths if path.is_file()])
    if folder:
        what = "what was there"
        if best.get("history") and "epoch" in best:
            loss = f"validation loss {best['valid_loss']:.6g}"
            what = f"{best['model']}, epoch {best['epoch']}, {loss}, trained on {name}"
        print(f'kept, as this run will replace it: {what}; --output-root "{folder}" shows it', file=sys.stderr)


def _read(path):
    """What a checkpoint holds, or {}."""
    try:
        return load_checkpoint(path, MADE_BY)
    except UserError:
        return {}


def _save(best_path, last_path, about, learner, history):
    """The last state and, where it is the best so far, that."""
    if rank():
        return
    now = {**about, **learner.state_dict(), "history": history}
    if history and epochs_since_best(history) == 0:
        save_checkpoint(best_path, {**about, "state_dict": now["state_dict"], **history[-1], "history": history})
    save_checkpoint(last_path, now)


@contextmanager
def _how_to_go_on(history):
    """Give a Ctrl-C, or SIGTERM, a message that says what is saved."""
    try:
        yield
    except KeyboardInterrupt as stop:
        after = f"after epoch {len(history)}" if history else "from the beginning"
        stop.args = (f"stopped; the same command with --resume goes on {after}",)
        raise


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
    *sums, samples = all_reduce_sum([*totals.values(), samples])
    return {name: total / samples for name, total in zip(totals, sums, strict=True)}


def _epoch(seed, epoch, loaders, learner, bar):
    """Train and validate; returns a row of the history, in the order of the log."""
    seed_everything(seed, epoch)
    train = average(partial(learner.train_step, epoch=epoch), loaders[0], f"epoch {epoch}, training", bar)
    seed_everything(seed)  # the same random numbers in every validation, so that its losses compare
    valid = average(learner.valid_step, loaders[1], f"epoch {epoch}, validation", bar)
    row = {"epoch": epoch}
    for name in train:
        row |= {f"train_{name}": train[name], f"valid_{name}": valid[name]}
    return row


def _finish(path, about, test_loaders, learner, bar):
    """The best checkpoint with the whole history, for the loss curves, and where there are images that decided nothing
    with the losses of these, with the random numbers of a validation."""
    best = about if rank() else {**load_checkpoint(path, MADE_BY), "history": about["history"]}
    for loader in test_loaders:
        learner.load_weights(broadcast(best.get("state_dict")))
        seed_everything(about["seed"])
        losses = average(learner.valid_step, loader, "test", bar).items()
        best |= {f"test_{name}": value for name, value in losses} | {"test_images": len(loader.dataset)}
    if rank() == 0:
        save_checkpoint(path, best)
    return best


def epochs_since_best(history):
    """How many epochs ago the best validation loss was reached, the earliest of equals."""
    losses = [row["valid_loss"] for row in history]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def _flags(args, *left_out):
    """The resolved flags but some, and how many processes there are, where there are several."""
    flags = {name: value for name, value in vars(args).items() if name not in left_out}
    return flags | ({"processes": world_size()} if world_size() > 1 else {})


def _settings_line(args):
    flags = _flags(args, "output_root", "resume").items()
    return f"Settings: {', '.join(f'{name} {value}' for name, value in flags if value is not None)}"


def _settings(args, about):
    """What must be the same for --resume to go on as if it had never stopped."""
    free = ("data", "data_root", "output_root", "epochs", "patience", "resume", "device", "image_size")
    flags = _flags(args, *free)
    source = f"{about['data']['name']} {about['data']['fingerprint']}"
    return {**flags, **about["config"], **about.get("settings", {}), "data": source}


def epoch_line(history: list[dict]) -> str:
    """The log's line of the last epoch of the history."""
    epoch, *losses = history[-1].items()
    fields = [f"{key.replace('_', ' ').title().replace('Kl', 'KL')}: {value:.6f}" for key, value in losses]
    return ", ".join([f"Epoch: {epoch[1]}", *fields]) + (" *" if epochs_since_best(history) == 0 else "")


def last_lines(best: dict, suffix: str) -> list[str]:
    """The log's last lines, of the best checkpoint and the suffix of its file."""
    file = f"models/BestModel_{best['model']}{suffix}"
    lines = [f"Best Valid Loss: {best['valid_loss']:.6f} (epoch {best['epoch']}), saved to {file}"]
    if "test_loss" in best:
        lines.append(f"Test Loss: {best['test_loss']:.6f} (epoch {best['epoch']}, {best['test_images']} images)")
    return lines


def _resume(path: Path, best_path: Path, settings, learner):
    """Load the last state, log its epochs again, and return its history, or [] where there is none."""
    last = broadcast(None if rank() else _load_last(path, best_path, settings))
    if last is None:
        return []
    try:
        learner.load_state_dict(last)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"cannot resume {path}: it lacks what training goes on from ({reason})") from None
    if rank() == 0:
        where = f"after epoch {len(last['history'])}" if last["history"] else "at the beginning"
        print(f"resumed {where} of {path}", file=sys.stderr)
    for epoch in range(len(last["history"])):
        log(epoch_line(last["history"][: epoch + 1]))
    return last["history"]


def _load_last(path, best_path, settings):
    """The last state, or None where there is none. Raises UserError where it is not this run's."""
    if not path.exists():
        print(f"--resume: there is no {path}; starting from the beginning", file=sys.stderr)
        return None
    last = load_checkpoint(path, MADE_BY)
    before = last["settings"]
    names = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
    if names:
        different = "; ".join(f"{name} was {before.get(name)}, now {settings.get(name)}" for name in names)
        raise UserError(f"cannot resume {path}: {different}. Use the same, or leave out --resume")
    if last["history"]:
        best = load_checkpoint(best_path, MADE_BY)
        rows = zip(best["history"], last["history"], strict=False)  # a kill can fall between the two writes
        if best["settings"] != last["settings"] or any(a != b for a, b in rows):
            raise UserError(f"cannot resume: {best_path} is of another run. Leave out --resume")
    return last
