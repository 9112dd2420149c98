"""Train a model on the flowers: the convolutional autoencoder (AE), the variational one (VAE), the diffusion model
(DDPM), the generative adversarial network (GAN), or the classifier of species that scores what they generate.

    python train_script.py --model VAE > ./log/train_VAE.txt
    python train_script.py --model DDPM > ./log/train_DDPM.txt       # also: GAN, Classifier
    python train_script.py --model AE --optimizer sgd --epochs 60    # the coursework's first experiment
    python train_script.py --model VAE --variance learned --output-root learned      # a better density of photographs
    python train_script.py --model VAE --evaluate --output-root learned              # how good it is
    python train_script.py --model VAE --resume                      # goes on after a stop
    torchrun --nproc-per-node 2 train_script.py --model VAE --batch-size 8    # two processes
    python train_script.py --model VAE --image-size 64 --encoding-dim 128 --data-root DIR

Writes models/BestModel_<M>.pth, models/LastModel_<M>.pth, vis/loss_<M>.png and vis/latent_VAE.png.
"""

from training import flags
from training.flags import LR_DECAY, LR_DECAY_EVERY

DEFAULTS = {  # of flags, for each --model
    "AE": {"epochs": 15, "patience": 20, "batch_size": 8, "lr": 1.5e-3, "encoding_dim": 64, "shift": 0.3},
    "VAE": {"epochs": 20, "patience": 20, "batch_size": 16, "lr": 2e-3, "encoding_dim": 64},
    "GAN": {"epochs": 290, "patience": 290, "batch_size": 32, "lr": 7e-4, "encoding_dim": 64},
    "DDPM": {"epochs": 190, "patience": 50, "batch_size": 32, "lr": 2e-3, "encoding_dim": None, "image_size": [48]},
    "Classifier": {"epochs": 20, "patience": 20, "batch_size": 32, "lr": 2e-3, "encoding_dim": None},
}
OPTIMIZERS = {  # what they change of these defaults
    "sgd": {"schedule": "step", "lr": 1.0, "batch_size": 16, "shift": 0.0},
    "momentum": {"schedule": "one-cycle", "lr": 1.0, "batch_size": 16},
    "adam": {"schedule": "one-cycle"},
}


def parse_args(argv=None):
    """The defaults reach the coursework's targets; some of them depend on --model or --optimizer."""
    parser = flags.make_parser("Train a model on the flowers.", DEFAULTS)
    parser.epilog += "\nwith --optimizer sgd or momentum: --lr 1.0 --batch-size 16; sgd: --schedule step --shift 0.0"
    flags.add_model_flag(parser, DEFAULTS, "which one to train", required=True)
    group = parser.add_argument_group("model")
    group.add_argument("--encoding-dim", metavar="N", type=flags.positive_int, help="length of the latent vector")
    size = {"metavar": "N", "type": flags.multiple_of_4, "nargs": "+", "default": [24, 24]}
    group.add_argument("--image-size", **size, help="one number, or height and width")
    group.add_argument("--beta", metavar="X", type=flags.positive_float, default=1.0, help="weight of the KL, for VAE")
    variance = "of the VAE's Gaussian p(x|z): the coursework's 1/2, or one learned for all pixels"
    group.add_argument("--variance", choices=["0.5", "learned"], default="0.5", help=variance)
    shifted = "share of the training photographs that are moved by a pixel; 1.0 with --variance learned"
    group.add_argument("--shift", metavar="X", type=flags.share, default=0.0, help=shifted)
    group = parser.add_argument_group("optimizer")
    group.add_argument("--optimizer", choices=list(OPTIMIZERS), default="adam", help="sgd is plain, adam is AdamW")
    schedule = f"of the learning rate; step: x {LR_DECAY} every {LR_DECAY_EVERY} epochs"
    group.add_argument("--schedule", choices=["step", "one-cycle"], help=schedule)
    flags.add_training_flags(parser)
    flags.add_torch_flags(parser)
    flags.add_data_flags(parser)
    flags.add_evaluation_flags(parser)
    first = flags.peek(argv, "model", "optimizer", "variance")
    parser.set_defaults(**DEFAULTS.get(flags.find_model(first.model, DEFAULTS), {}))
    parser.set_defaults(**OPTIMIZERS.get(first.optimizer or "adam", {}))
    if first.variance == "learned":
        parser.set_defaults(shift=1.0)
    args = parser.parse_args(argv)
    check_flags(parser, args)
    args.image_size = (args.image_size * 2)[:2]
    return args


def check_flags(parser, args) -> None:
    """End with status 2 where flags do not go together."""
    if len(args.image_size) > 2:
        parser.error("argument --image-size: expected one number, or height and width")
    given = set(flags.given(parser, args))
    for name, reason in {"beta": "KL to weigh", "variance": "variance", "evaluate": "likelihood"}.items():
        if args.model != "VAE" and name in given:
            parser.error(f"argument --{name}: {args.model} has no {reason}; it is for VAE")
    if args.model not in ("AE", "VAE") and args.optimizer != "adam":
        parser.error(f"argument --optimizer: {args.model} is trained with adam")
    if args.encoding_dim and not DEFAULTS[args.model]["encoding_dim"]:
        parser.error(f"argument --encoding-dim: {args.model} has no latent vector")
    flags.check_mode(parser, args, "evaluate", flags.READ_BY_EVALUATE)


if __name__ == "__main__":
    flags.parse_first(parse_args)

import math
from functools import partial

import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from data import create_flower_dataloaders, describe, mean_image_loss, mirror, output_root, shift
from evaluation.likelihood import bits_per_dimension, describe_estimate, estimate_likelihood
from evaluation.models import (
    CLASSIFIES,
    RECONSTRUCTS,
    SAMPLES,
    TABLE,
    load_model,
    load_photographs,
    loss_unit,
    name_model,
)
from training import UserError
from training.distributed import init_distributed, rank
from training.figures import plot_latents, plot_losses
from training.learner import TorchLearner
from training.loop import fit, last_lines, warn_unless_below
from training.script import log, run_script, seed_everything
from VarAutoencoder import (
    ACTIVE_VARIANCE,
    active_dimensions,
    aggregate_posterior,
    describe_parts,
    dimensions_for,
    kl_divergence,
)

ADAMW = {"AE": (0.9, 0.2), "VAE": (0.9, 0.2), "Classifier": (0.9, 0.2), "DDPM": (0.9, 0.01)}  # beta1, weight decay
ADAMW["GAN"] = (0.0, 0.01)  # gradients of a game change as the other player moves
COLLAPSED_KL = 0.1  # nats per image below which the VAE's latent vector says next to nothing


def build_optimizer(args, parameters, steps_per_epoch: int):
    """(optimizer, scheduler); the scheduler goes one step on with every batch.

    one-cycle (Smith & Topin 2018) raises the learning rate from lr / 25 to lr in the first 30 % of the steps and
    lowers it to nearly 0 in the others; the momentum, Adam's beta1, falls from 0.95 to 0.85 and rises again, where
    there is any.
    """
    if args.optimizer == "adam":
        momentum, weight_decay = ADAMW[args.model]
        optimizer = AdamW(parameters, args.lr, betas=(momentum, 0.99), weight_decay=weight_decay, fused=True)
    else:
        momentum = 0.9 if args.optimizer == "momentum" else 0.0
        optimizer = SGD(parameters, args.lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    if args.schedule == "step":
        return optimizer, StepLR(optimizer, LR_DECAY_EVERY * steps_per_epoch, LR_DECAY)
    steps = args.epochs * steps_per_epoch
    return optimizer, OneCycleLR(optimizer, args.lr, steps, anneal_strategy="linear", cycle_momentum=momentum > 0)


def build_model(args, dataset):
    """(the model, its config) as the flags ask for it, on its device; dataset: the photographs to train on."""
    entry, (height, width), classes = TABLE[args.model], args.image_size, len(dataset.info["classes"])
    available = {
        "encoding_dim": args.encoding_dim,
        "classes": classes,
        "class_prior": (torch.bincount(dataset.labels, minlength=classes) / len(dataset)).tolist(),
        "img_height": height,
        "img_width": width,
        "variance": vars(args).get("variance"),
    }
    config = {name: available[name] for name in entry.config}
    model = entry.build(**config)
    if entry.roles == (SAMPLES,):
        model.standardise(dataset[:][0])
    image, parameters = f"3x{height}x{width}", sum(param.numel() for param in model.parameters())
    layers = f"{image} -> {args.encoding_dim} -> {image}" if RECONSTRUCTS in entry.roles else image
    log(f"Model: {args.model}, {layers}, {parameters:,} parameters")
    device = torch.device(args.device)
    return model.to(device, memory_format=memory_format(device)), config


def memory_format(device: torch.device) -> torch.memory_format:
    """How images and weights are stored: with channels last, which is faster except on MPS (PyTorch issue 193349)."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def build_learner(args, model, steps_per_epoch: int) -> TorchLearner:
    """The model with its loss, optimizer and schedule; those that only generate save averaged weights."""
    entry = TABLE[args.model]
    measure = partial(model.measure, **{name: getattr(args, name) for name in entry.loss_settings})
    optimizer, scheduler = build_optimizer(args, model.parameters(), steps_per_epoch)
    layout, ema = memory_format(torch.device(args.device)), entry.roles == (SAMPLES,)
    return TorchLearner(model, measure, optimizer, scheduler, args.amp, ema, layout)


@torch.no_grad()
def diagnose(model, dataset, best: dict, path) -> list[str]:
    """What the latent vector of the best VAE carries: lines for the log, and a figure at `path`."""
    model.load_state_dict(best["state_dict"])
    encoded = [model.encode(images) for images in dataset[:][0].split(256)]
    mu, log_var = (torch.cat(part).cpu() for part in zip(*encoded, strict=True))
    active, dims = active_dimensions(mu), mu.shape[1]
    kl, z = kl_divergence(mu, log_var).mean(dim=0).sort(descending=True).values, torch.linspace(-4, 4, 81)
    used = f"{active} of {dims} latent dimensions active, {dimensions_for(0.9, kl)} carry 90 % of the KL"
    title = f"{name_model(best)}\n{used}, on the {len(mu)} validation images of {best['data']['name']}"
    prior = torch.distributions.Normal(0, 1).log_prob(z).exp()
    plot_latents(kl.numpy(), z, aggregate_posterior(mu, log_var, z), prior, path, title)
    lines = [f"Diagnostics: {describe_parts(best)}, {used} (active: variance of mu above {ACTIVE_VARIANCE})"]
    if model.learns_variance:
        bits = bits_per_dimension(best["valid_recon"] + best["valid_kl"], math.prod(model.image_shape))
        lines.append(f"Variance: {best['valid_variance']:.5f}, {bits:.2f} bits per dimension")
    if active == 0 or best["valid_kl"] < COLLAPSED_KL:
        lines.append("Warning: the posterior has collapsed to the prior; try a lower --beta or more --epochs")
    return lines


def evaluate(args):
    """Log how likely the VAE finds the held-out photographs; returns the `Estimate`."""
    model, checkpoint = load_model(args.model, args.output_root)
    held_out = load_photographs(args, checkpoint)[1].to(args.device)
    model = model.to(args.device)

    def posterior(images, _):
        mu, log_var = model.encode(images)
        return mu, (0.5 * log_var).exp()

    def log_likelihood(zs, images, _):
        reconstructions = model.decode(zs.flatten(0, 1)).view(len(zs), *images.shape)
        return -model.negative_log_likelihood(reconstructions, images)

    name, fingerprint = (checkpoint["data"][key] for key in ("name", "fingerprint"))
    log(f"Data: {len(held_out)} validation images of {name}, fingerprint {fingerprint}")
    log(f"Model: {name_model(checkpoint)}")
    estimate = estimate_likelihood(held_out, posterior, log_likelihood, args.nll_samples, args.seed)
    for line in describe_estimate(estimate, args.nll_samples, math.prod(model.image_shape)):
        log(line)
    return estimate


def main(argv=None):
    """Train; returns the history, or with --evaluate the `Estimate`."""
    args = parse_args(argv)
    args.device = str(init_distributed(args.device))
    if args.evaluate:
        return evaluate(args)
    del args.evaluate, args.nll_samples
    if args.model != "VAE":
        del args.variance
    height, width = args.image_size
    transform = (lambda images: shift(mirror(images), args.shift)) if args.shift else mirror
    loaders = create_flower_dataloaders(args.batch_size, args.data_root, width, height, args.data, transform=transform)
    info = loaders[0].dataset.info
    if CLASSIFIES in TABLE[args.model].roles and len(info["classes"]) < 2:
        raise UserError(f"a classifier needs 2 or more classes to tell apart, found {', '.join(info['classes'])} alone")
    log(f"Data: {describe(*loaders)}")
    args.output_root = output_root(args.output_root, info)
    vis = args.output_root / "vis"
    seed_everything(args.seed)
    model, config = build_model(args, loaders[0].dataset)
    for loader in loaders:
        loader.dataset.to(args.device)

    about = {"model": args.model, "config": config, "data": info}
    if args.schedule == "one-cycle":
        about["settings"] = {"epochs": args.epochs}  # the schedule depends on it
    learner = build_learner(args, model, len(loaders[0]))
    best = fit(args, about, loaders, learner)
    if RECONSTRUCTS in TABLE[args.model].roles:
        model.eval()
        prior = torch.zeros(2, 1, 1, device=args.device) if model.is_dist else ()  # mu and log_var
        warn_unless_below(mean_image_loss(loaders, learner.measure, *prior), best)
    if rank() == 0:
        for line in diagnose(model, loaders[1].dataset, best, vis / "latent_VAE.png") if model.is_dist else []:
            log(line)
        for line in last_lines(best, learner.suffix):
            log(line)
        title, unit = f"{args.model} on {info['name']}", loss_unit(args.model, best["settings"])
        plot_losses(best["history"], vis / f"loss_{args.model}.png", title, unit)
    return best["history"]


if __name__ == "__main__":
    run_script(main)
