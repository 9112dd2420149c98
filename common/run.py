"""What surrounds a training loop: the log, the averages of an epoch, the best and the last checkpoint, --resume.

with start_run("VAE", root, {"state_dict": model, "optimizer": optimizer}, ...) as run:
    for epoch in run.epochs():
        if run.epochs_since_best >= patience:       # before the epoch: a run that is resumed may be done
            break
        for images, labels in run.batches("train", train_loader):
            ...                                     # forward, loss, backward, step
            run.record({"loss": loss.item()})       # averaged over the images of the epoch
        for images, labels in run.batches("valid", valid_loader):
            run.record({"loss": ...})
        if run.valid_loss < run.best_loss:
            run.save_best()
        run.end_epoch()                             # a line of the log, and what --resume continues from
    best = run.finish()
"""

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from common import PROJECT, UserError, is_synthetic
from common.checkpoints import keep_copies, load_checkpoint, run_lock, save_checkpoint
from common.distributed import all_reduce_sum, broadcast, rank, world_size
from common.process import log, progress, say, seed_everything, warn_of_waiting

MADE_BY = "a new training run"
SPLITS = {"train": "training", "valid": "validation", "test": "test"}


class Run:
    """One training, as `start_run` yields it; history: {"epoch", "train_loss", "valid_loss", ...} of each epoch."""

    def __init__(self, folder: Path, about: dict, parts: dict, may_change: set, suffix: str):
        self.folder = folder
        self.about = about
        self.parts = parts
        self.may_change = may_change
        self.best_path = folder / f"BestModel_{about['model']}{suffix}"
        self.last_path = folder / f"LastModel_{about['model']}{suffix}"
        self.history = []
        self.means = {}  # {split: {metric: its mean over the images}} of the current epoch
        self.started = time.perf_counter()

    # ------------------------------------------------------------ what a training loop calls

    def epochs(self) -> Iterator[int]:
        """The numbers of the epochs that are still to train."""
        for epoch in range(len(self.history) + 1, self.about["settings"]["epochs"] + 1):
            self.means = {}
            yield epoch

    def batches(self, split: str, loader) -> Iterator[tuple]:
        """The loader's (images, labels), with a progress bar; afterwards the means of what `record` received are known.

        split: "train", "valid" or "test". Every epoch trains with random numbers of its own, and validates with the
        same as all others, so that the losses of two epochs compare.
        """
        epoch = len(self.history) + 1
        seed_everything(self.about["seed"], epoch if split == "train" else 0)
        self.where = SPLITS[split] if split == "test" else f"epoch {epoch}, {SPLITS[split]}"
        self.sums = {}
        self.image_count = 0
        self.bar = progress(loader, self.where)
        with self.bar, warn_of_waiting(loader.dataset.images.device.type):
            for number, (images, labels) in enumerate(self.bar, 1):
                self.batch = number
                self.batch_size = len(images)
                yield images, labels
        *sums, image_count = all_reduce_sum([*self.sums.values(), self.image_count])
        self.means[split] = {name: total / image_count for name, total in zip(self.sums, sums, strict=True)}

    def record(self, metrics: dict[str, float]) -> None:
        """Add what was measured on the current batch, means over its images, "loss" among them. Raises UserError where
        the loss is not finite."""
        if not math.isfinite(metrics["loss"]):
            raise UserError(f"{self.where}, batch {self.batch}: the loss is {metrics['loss']}; try a smaller --lr")
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value) * self.batch_size
        self.image_count += self.batch_size
        self.bar.set_postfix_str(f"loss {metrics['loss']:.4g}", refresh=False)

    @property
    def valid_loss(self) -> float:
        """The mean validation loss of the current epoch."""
        return self.means["valid"]["loss"]

    @property
    def best_loss(self) -> float:
        """The lowest validation loss of the epochs before the current one; infinity in the first."""
        return min((row["valid_loss"] for row in self.history), default=math.inf)

    @property
    def epochs_since_best(self) -> int:
        """How many epochs ago the lowest validation loss was reached."""
        return count_since_best(self.history)

    def save_best(self) -> None:
        """Write the model to BestModel_*, with the losses of the current epoch."""
        if rank() == 0:
            row = self._row()
            weights = {"state_dict": _on_cpu(self.parts["state_dict"].state_dict())}
            save_checkpoint(self.best_path, {**self.about, **weights, **row, "history": [*self.history, row]})

    def end_epoch(self) -> None:
        """Write what --resume continues from to LastModel_*, then the epoch's line of the log."""
        history = [*self.history, self._row()]
        self._save_last(history)
        self.history = history  # now, so that after a Ctrl-C the message says what is saved
        log(epoch_line(history))

    def load_best(self) -> None:
        """Put the best weights back into the model, to test them."""
        weights = None if rank() else load_checkpoint(self.best_path, MADE_BY)["state_dict"]
        self.parts["state_dict"].load_state_dict(broadcast(weights))

    def finish(self) -> dict:
        """Write the whole history, and the test losses where there are any, into the best checkpoint; write the last
        lines of the log. Returns the checkpoint; processes other than rank 0 do without the weights."""
        best = dict(self.about)
        if rank() == 0:
            best = load_checkpoint(self.best_path, MADE_BY) | self.about
        best["history"] = self.history
        best |= {f"test_{name}": value for name, value in self.means.get("test", {}).items()}
        if rank() == 0:
            save_checkpoint(self.best_path, best)
            for line in last_lines(best, self.best_path):
                log(line)
            if len(self.history) < self.about["settings"]["epochs"]:
                say("stopped early: the validation loss did not fall any more")
            say(f"finished after {time.perf_counter() - self.started:.1f} s")
        return best

    # ------------------------------------------------------------ what start_run calls

    def start(self, resume: bool) -> None:
        """Write the settings to the log; then load the last state, or keep what a new run will replace."""
        log("Settings: " + ", ".join(f"{name} {value}" for name, value in self.about["settings"].items()))
        if resume:
            self._resume()
        if not self.history and rank() == 0:
            self._keep_replaced()
            self._save_last([])  # from now on --resume means this run

    def _row(self):
        """The current epoch's row of the history, in the order of the log."""
        row = {"epoch": len(self.history) + 1}
        for name in self.means["train"]:
            row |= {f"{split}_{name}": self.means[split][name] for split in ("train", "valid")}
        return row

    def _save_last(self, history):
        if rank() == 0:
            states = {name: part.state_dict() for name, part in self.parts.items()}
            states["state_dict"] = _on_cpu(states["state_dict"])
            save_checkpoint(self.last_path, {**self.about, **states, "history": history})

    def _keep_replaced(self):
        """Copy the checkpoints that a new run will replace. Raises UserError where it must not replace them."""
        best = _read(self.best_path)
        last = _read(self.last_path)
        trained_on = str(best.get("data", {}).get("name", "unknown images"))
        if best and is_synthetic(self.about["data"]) and not is_synthetic({"name": trained_on}):
            problem = f"{self.best_path} was trained on {trained_on}, and the stand-in never takes its place"
            raise UserError(f"{problem}: choose another folder for this run with --output-root")
        has_epochs = bool(last.get("history", True))
        paths = [self.best_path, self.last_path] if has_epochs else [self.best_path]
        folder = keep_copies([path for path in paths if path.is_file()])
        if folder:
            kept = "the old checkpoint"
            if best.get("history") and "epoch" in best:
                kept = f"{best['model']}, epoch {best['epoch']}, validation loss {best['valid_loss']:.6g}"
                kept += f", trained on {trained_on}"
            look = f'visualization.py (of digits beyond.digits) with --output-root "{folder}" shows it'
            back = f'cp "{folder}"/models/* "{self.folder}" takes it back'
            say(f"kept, because this run will replace it: {kept}; {look}, and {back}")

    def _resume(self):
        """Load the last state and write the log of its epochs again; where there is none, the run starts."""
        last = broadcast(None if rank() else self._load_last())
        if last is None:
            return
        try:
            for name, part in self.parts.items():
                part.load_state_dict(last[name])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"cannot resume {self.last_path}: its state does not fit this run ({reason})") from None
        if rank() == 0:
            where = f"after epoch {len(last['history'])}" if last["history"] else "at the beginning"
            say(f"resumed {where} of {self.last_path}")
        for row in last["history"]:
            self.history.append(row)
            log(epoch_line(self.history))

    def _load_last(self):
        """The last state, or None where there is none. Raises UserError where it is of another run."""
        if not self.last_path.exists():
            say(f"--resume: there is no {self.last_path}; starting from the beginning")
            return None
        last = load_checkpoint(self.last_path, MADE_BY)
        before = self._fixed(last)
        now = self._fixed(self.about)
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changed:
            different = "; ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in changed)
            raise UserError(f"cannot resume {self.last_path}: {different}. Use the same, or leave out --resume")
        if last["history"]:
            best = load_checkpoint(self.best_path, MADE_BY)
            rows = zip(best["history"], last["history"], strict=False)  # a kill can fall between the two writes
            if self._fixed(best) != before or any(a != b for a, b in rows):
                raise UserError(f"cannot resume: {self.best_path} is of another run. Leave out --resume")
        return last

    def _fixed(self, checkpoint):
        """All that must be the same for --resume to continue as if the run had never stopped."""
        settings = {name: value for name, value in checkpoint["settings"].items() if name not in self.may_change}
        source = f"{checkpoint['data'].get('name')} {checkpoint['data'].get('fingerprint')}"
        return {**settings, **checkpoint["config"], "seed": checkpoint["seed"], "data": source}


@contextmanager
def start_run(
    name: str,
    root: Path,
    parts: dict,
    *,
    config: dict,
    data: dict,
    settings: dict,
    may_change: Iterable[str] = (),
    seed: int = 0,
    resume: bool = False,
    suffix: str = ".pth",
    run_class: type[Run] = Run,
):
    """Lock the checkpoints of a model below a root, start or resume its training, and yield the `Run`.

    parts: {"state_dict": the model, and all else that the next step depends on}; each has state_dict() and
    load_state_dict(). config: the arguments that build the model; data: what the checkpoint records about the images;
    settings: of the training, "epochs" among them; may_change: those that --resume may change; suffix: of the
    checkpoint files; run_class: a subclass of Run.
    Raises UserError where another run trains the model, or where --resume does not fit.
    """
    if broadcast(data) != data:
        raise UserError("this process found other images than the first one: all processes need the same")
    if world_size() > 1:
        settings = {**settings, "processes": world_size()}
    about = {"model": name, "config": config, "data": data, "seed": seed, "settings": settings}
    run = run_class(root / "models", about, parts, set(may_change), suffix)
    with nullcontext() if rank() else run_lock(run.folder, name):
        try:
            run.start(resume)
            yield run
        except KeyboardInterrupt as stop:
            after = f"after epoch {len(run.history)}" if run.history else "from the beginning"
            stop.args = (f"stopped; the same command with --resume continues {after}",)
            raise


def _on_cpu(weights):
    """The weights, to open on a machine without a GPU; the perceptron's are lists of arrays."""
    return {name: weight.cpu() if torch.is_tensor(weight) else weight for name, weight in weights.items()}


def _read(path):
    """The content of a checkpoint, or {} where it cannot be read."""
    try:
        return load_checkpoint(path, MADE_BY)
    except UserError:
        return {}


def count_since_best(history: list[dict]) -> int:
    """How many epochs ago the lowest validation loss was reached, the earliest of equal ones."""
    losses = [row["valid_loss"] for row in history]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def epoch_line(history: list[dict]) -> str:
    """The log's line of the last epoch of the history; a * says that its model was saved."""
    metrics = dict(history[-1])
    epoch = metrics.pop("epoch")
    fields = [f"{key.replace('_', ' ').title().replace('Kl', 'KL')}: {value:.6f}" for key, value in metrics.items()]
    star = " *" if count_since_best(history) == 0 else ""
    return ", ".join([f"Epoch: {epoch}", *fields]) + star


def last_lines(best: dict, path: Path) -> list[str]:
    """The log's last lines, for the best checkpoint and its path."""
    inside = path.is_relative_to(PROJECT)
    shown = os.path.relpath(path, PROJECT) if inside else path
    lines = [f"Best Valid Loss: {best['valid_loss']:.6f} (epoch {best['epoch']}), saved to {shown}"]
    if "test_loss" in best:
        lines.append(f"Test Loss: {best['test_loss']:.6f} (epoch {best['epoch']})")
    return lines
