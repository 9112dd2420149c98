"""Flowers, parts 3 and 4: train the convolutional autoencoder (AE) or the variational one (VAE); and beyond them the
GAN, the diffusion model (DDPM) and the classifier of species by which their images are scored.

    python train_script.py --model AE > ./log/train_AE.txt
    python train_script.py --model VAE > ./log/train_VAE.txt         # also: GAN, DDPM, Classifier
    python train_script.py --model AE --optimizer sgd --epochs 60    # the coursework's first experiment
    python train_script.py --model VAE --resume                      # continues after a stop
    python train_script.py --model VAE --image-size 64 --encoding-dim 128 --data-root DIR
    torchrun --nproc-per-node 2 train_script.py --model VAE --batch-size 8    # two processes

Writes models/BestModel_<M>.pth, models/LastModel_<M>.pth and vis/loss_<M>.png.
"""

import warnings
from functools import partial
from typing import NamedTuple

import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common import UserError
from common.distributed import data_parallel, init_distributed, rank
from common.flags import add_data_flags, add_device_flag, add_training_flags, make_parser, number, positive_int
from common.process import log, run_script, seed_everything
from common.run import start_run
from data import create_flower_dataloaders
from datasets.images import choose_output_root, data_line, mirror, shift
from trained.loading import plot_loss_curves
from trained.registry import MODELS

EMA_DECAY = 0.999  # GAN and DDPM save an exponential moving average (EMA) of their weights, over about 1,000 steps


class Training(NamedTuple):
    """How a model is trained. The first five are the defaults of flags."""

    epochs: int
    batch_size: int
    lr: float
    encoding_dim: int | None = 64
    image_size: int = 24
    patience: int = 20  # epochs without a lower validation loss, after which the training stops
    shift: float = 0.0  # the share of the photographs that are moved by a pixel
    has_momentum: bool = True  # which the one-cycle schedule sets
    weight_decay: float = 0.2


TRAININGS = {
    "AE": Training(15, 8, 1.5e-3, shift=0.3),
    "VAE": Training(20, 16, 2e-3),
    # the two networks of a GAN change each other's gradients at every step, so that old gradients mislead: no momentum
    "GAN": Training(290, 32, 7e-4, patience=290, has_momentum=False, weight_decay=0.01),
    "DDPM": Training(190, 32, 2e-3, encoding_dim=None, image_size=48, patience=50, weight_decay=0.01),
    "Classifier": Training(20, 32, 2e-3, encoding_dim=None),
}
FLAGS = ("epochs", "batch_size", "lr", "encoding_dim", "image_size")  # whose defaults depend on --model


def parse_args(argv=None, trainings=TRAININGS):
    """The flags. The defaults reach the coursework's targets."""
    defaults = {name: {flag: getattr(training, flag) for flag in FLAGS} for name, training in trainings.items()}
    parser = make_parser("Train a model on the flowers.", defaults)
    parser.epilog += "\nwith --optimizer sgd or momentum: --batch-size 16, --lr 1.0"
    parser.add_argument("--model", choices=trainings, required=True, help="which one to train")
    parser.add_argument("--encoding-dim", metavar="N", type=positive_int, help="length of the latent vector")
    multiple_of_4 = number(int, "a multiple of 4 above 0", lambda value: 0 < value <= 2**20 and value % 4 == 0)
    parser.add_argument("--image-size", metavar="N", type=multiple_of_4, help="pixels of the height and the width")
    text = "sgd is plain, momentum is Nesterov's, adam is AdamW"
    parser.add_argument("--optimizer", choices=["sgd", "momentum", "adam"], default="adam", help=text)
    add_training_flags(parser)
    add_device_flag(parser)
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 where it is precise enough")
    add_data_flags(parser)
    args = parser.parse_args(argv)
    if args.encoding_dim and not trainings[args.model].encoding_dim:
        parser.error(f"argument --encoding-dim: {args.model} has no latent vector")
    if args.optimizer != "adam" and not MODELS[args.model].reconstructs:
        parser.error(f"argument --optimizer: {args.model} is trained with adam")
    chosen = defaults[args.model]
    if args.optimizer != "adam":
        chosen = {**chosen, "batch_size": 16, "lr": 1.0}
    for flag, value in chosen.items():
        if getattr(args, flag) is None:  # it was left out
            setattr(args, flag, value)
    return args


# 作业 Part 3.2: optimizer 和 scheduler
def build_optimizer(optimizer_name: str, parameters, lr: float, epochs: int, steps_per_epoch: int, training: Training):
    """(optimizer, scheduler); scheduler.step() follows every batch.

    sgd: plain SGD, w <- w - lr g, with the coursework's schedule, the learning rate x 0.9 every 5 epochs.
    momentum: SGD whose steps add up, v <- m v + g, w <- w - lr v (here with Nesterov's look ahead).
    adam: AdamW (Loshchilov & Hutter 2019), the mean gradient divided by the root of the mean squared gradient; in each
    step the weights also shrink by lr * weight_decay of themselves.
    Momentum and Adam have a one-cycle schedule (Smith & Topin 2018): the learning rate rises from lr / 25 to lr in the
    first 30 % of the steps and falls to nearly 0 in the others; the momentum, Adam's beta1, falls from 0.95 to 0.85 and
    rises again.
    """
    if optimizer_name == "sgd":
        optimizer = SGD(parameters, lr)
        return optimizer, StepLR(optimizer, step_size=5 * steps_per_epoch, gamma=0.9)
    if optimizer_name == "momentum":
        optimizer = SGD(parameters, lr, momentum=0.9, nesterov=True)
        has_momentum = True
    else:
        betas = (0.9 if training.has_momentum else 0.0, 0.99)  # with momentum, the schedule replaces the 0.9
        optimizer = AdamW(parameters, lr, betas=betas, weight_decay=training.weight_decay, fused=True)
        has_momentum = training.has_momentum
    steps = epochs * steps_per_epoch
    return optimizer, OneCycleLR(optimizer, lr, steps, anneal_strategy="linear", cycle_momentum=has_momentum)


def ema_update(averaged: list, current: list, steps: torch.Tensor) -> None:
    """Move averaged weights, in place, towards the current ones after so many steps. The decay rises to EMA_DECAY: an
    average of few steps would be mostly the first one (TensorFlow's ExponentialMovingAverage does the same)."""
    decay = min(EMA_DECAY, (1 + steps.item()) / (10 + steps.item()))
    get_ema_multi_avg_fn(decay)(averaged, current, steps)


def augment(images: torch.Tensor, shifted: float) -> torch.Tensor:
    """Photographs mirrored at random and, the share `shifted` of them, moved by a pixel."""
    return shift(mirror(images), shifted) if shifted else mirror(images)


def make_config(name: str, encoding_dim: int | None, image_size: int, dataset) -> dict:
    """The arguments that build a model for these photographs. Raises UserError for a classifier of one class."""
    species = dataset.info["classes"]
    classes = len(species)
    counts = torch.bincount(dataset.labels, minlength=classes)
    if MODELS[name].classifies and classes < 2:
        raise UserError(f"a classifier needs 2 or more classes, found {', '.join(species)} alone")
    missing = [species[label] for label in range(classes) if not counts[label]]
    if missing and MODELS[name].needs_labels:
        reason = "all of its images are held out to validate on"
        warnings.warn(f"{name} does not learn {', '.join(missing)}: {reason}; add images", stacklevel=2)
    available = {
        "encoding_dim": encoding_dim,
        "classes": classes,
        "class_prior": (counts / len(dataset)).tolist(),
        "img_height": image_size,
        "img_width": image_size,
    }
    return {argument: available[argument] for argument in MODELS[name].config}


def build_model(name: str, config: dict, photographs):
    """The untrained model of these arguments; GAN and DDPM measure the photographs that they are to be trained on."""
    model = MODELS[name].build(**config)
    if MODELS[name].standardises:
        model.standardise(photographs[:][0])
    size = f"3x{config['img_height']}x{config['img_width']}"
    layers = f"{size} -> {config['encoding_dim']} -> {size}" if MODELS[name].reconstructs else size
    log(f"Model: {name}, {layers}, {sum(map(torch.numel, model.parameters())):,} parameters")
    return model


def main(argv=None, trainings=TRAININGS):
    """Train; returns the losses of each epoch. trainings: {model: Training}, the choices of --model."""
    args = parse_args(argv, trainings)
    training = trainings[args.model]
    entry = MODELS[args.model]
    device = init_distributed(args.device)

    shifted = 0.0 if args.optimizer == "sgd" else training.shift
    train_loader, valid_loader = create_flower_dataloaders(
        args.batch_size,
        args.data_root,
        args.image_size,
        args.image_size,
        args.data,
        transform=partial(augment, shifted=shifted),
    )
    photographs = train_loader.dataset
    log(data_line(train_loader, valid_loader))

    seed_everything(args.seed)
    config = make_config(args.model, args.encoding_dim, args.image_size, photographs)
    model = build_model(args.model, config, photographs)
    # with channels last convolutions are faster, but wrong on MPS (PyTorch issue 193349)
    layout = torch.contiguous_format if device.type == "mps" else torch.channels_last
    model.to(device, memory_format=layout)
    photographs.to(device)
    valid_loader.dataset.to(device)

    steps_per_epoch = len(train_loader)
    optimizer, scheduler = build_optimizer(
        args.optimizer, model.parameters(), args.lr, args.epochs, steps_per_epoch, training
    )
    parts = {"state_dict": model, "optimizer": optimizer, "scheduler": scheduler}
    saved = model  # what is validated and saved; of GAN and DDPM the average
    if entry.averages:
        averaged = AveragedModel(model, multi_avg_fn=ema_update)
        saved = averaged.module
        parts |= {"state_dict": saved, "raw_state_dict": model, "averaged": averaged}
    parallel = data_parallel(model)  # under torchrun it averages the processes' gradients

    root = choose_output_root(args.output_root, photographs.info)
    settings = {"optimizer": args.optimizer, "epochs": args.epochs, "patience": training.patience}
    settings |= {"batch_size": args.batch_size, "lr": args.lr, "shift": shifted, "amp": args.amp}
    with start_run(
        args.model,
        root,
        parts,
        config=config,
        data=photographs.info,
        settings=settings,
        may_change=("epochs", "patience") if args.optimizer == "sgd" else ("patience",),  # one cycle depends on epochs
        seed=args.seed,
        resume=args.resume,
    ) as run:
        for epoch in run.epochs():
            if run.epochs_since_best >= training.patience:  # early stopping
                break

            parallel.train()
            for images, labels in run.batches("train", train_loader):
                images = images.contiguous(memory_format=layout)
                with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
                    outputs = parallel(images, *entry.condition(labels))  # DDPM and Classifier get the labels as well
                loss, metrics = model.loss(outputs, images)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                if entry.averages:
                    averaged.update_parameters(model)
                run.record(metrics)

            saved.eval()
            with torch.no_grad():
                for images, labels in run.batches("valid", valid_loader):
                    images = images.contiguous(memory_format=layout)
                    outputs = saved(images, *entry.condition(labels))
                    loss, metrics = saved.loss(outputs, images)
                    run.record(metrics)

            if run.valid_loss < run.best_loss:
                run.save_best()  # models/BestModel_<M>.pth
            run.end_epoch()  # the epoch's line of the log, and models/LastModel_<M>.pth
        best = run.finish()
    if rank() == 0:
        plot_loss_curves(best, root)
    return best["history"]


if __name__ == "__main__":
    run_script(main)
