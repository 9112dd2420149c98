"""Train a model on the flowers: the convolutional autoencoder (AE), the variational one (VAE), the diffusion model
(DDPM), the generative adversarial network (GAN), or the classifier of species that scores what they draw.

    python train_script.py --model VAE > ./log/train_VAE.txt
    python train_script.py --model DDPM > ./log/train_DDPM.txt       # also: GAN, Classifier
    python train_script.py --model AE --optimizer sgd --epochs 60    # the coursework's first experiment
    python train_script.py --model VAE --resume                      # goes on after a stop
    torchrun --nproc-per-node 2 train_script.py --model VAE --batch-size 8    # two processes; see parallel.py
    python train_script.py --model VAE --image-size 64 --encoding-dim 128 --data-root DIR

Writes models/BestModel_<M>.pth, models/LastModel_<M>.pth, vis/loss_<M>.png and vis/latent_VAE.png.
"""

import argparse
from functools import partial

from parallel import RANK, join
from training import (
    FLOWERS_ROOT,
    LR_DECAY,
    LR_DECAY_EVERY,
    HelpFormatter,
    add_data_flags,
    add_torch_flags,
    add_training_flags,
    choose_defaults,
    fit,
    log,
    pick_device,
    positive_float,
    positive_int,
    run_script,
    seed_everything,
    torch_steps,
)

VAE_UNIT = 16  # the coursework states the VAE's loss as the sum over a batch of 16, whatever --batch-size is
COLLAPSED_KL = 0.1  # nats per image below which the VAE's latent vector says next to nothing
GENERATORS = ("DDPM", "GAN")
AVERAGE_DECAY = 0.999  # these are validated and saved as averages of their weights, over about a thousand steps
DEFAULTS = {  # of flags, for each --model
    "AE": {"epochs": 15, "patience": 20, "batch_size": 16, "lr": 2e-3, "encoding_dim": 64},
    "VAE": {"epochs": 20, "patience": 20, "batch_size": 16, "lr": 2e-3, "encoding_dim": 64},
    "GAN": {"epochs": 160, "patience": 160, "batch_size": 32, "lr": 7e-4, "encoding_dim": 64},
    "DDPM": {"epochs": 250, "patience": 50, "batch_size": 64, "lr": 1e-3, "encoding_dim": None},
    "Classifier": {"epochs": 20, "patience": 20, "batch_size": 32, "lr": 2e-3, "encoding_dim": None},
}


def parse_args(argv=None):
    """The defaults reach the coursework's targets; some of them hang on --model or --optimizer."""
    parser = argparse.ArgumentParser(description="Train a model on the flowers.", formatter_class=HelpFormatter)
    parser.add_argument("--model", choices=list(DEFAULTS), required=True, help="which one to train")
    defaults = {flag: {model: row[flag] for model, row in DEFAULTS.items()} for flag in DEFAULTS["AE"]}
    encoding_dim = defaults.pop("encoding_dim")
    add_model_flags(parser.add_argument_group("model"), encoding_dim)
    group = parser.add_argument_group("optimizer")
    group.add_argument(
        "--optimizer", choices=["sgd", "momentum", "adam"], default="adam", help="sgd is plain, adam is AdamW"
    )
    group.add_argument(
        "--schedule",
        choices=["step", "one-cycle"],
        default={"sgd": "step", "momentum": "one-cycle", "adam": "one-cycle"},
        help=f"of the learning rate; step: x {LR_DECAY} every {LR_DECAY_EVERY} epochs",
    )
    defaults["lr"] |= {"sgd": 1.0, "momentum": 1.0}
    add_training_flags(parser, **defaults)
    add_torch_flags(parser)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    choose_defaults(parser, args, "optimizer", ["schedule", *(["lr"] if args.optimizer != "adam" else [])])
    choose_defaults(parser, args, "model", list(DEFAULTS["AE"]))
    if len(args.image_size) > 2:
        parser.error("argument --image-size: expected one number, or height and width")
    if args.model != "VAE" and args.beta != 1:
        parser.error(f"argument --beta: {args.model} has no KL to weigh")
    if args.optimizer != "adam" and args.model not in ("AE", "VAE"):
        parser.error(f"argument --optimizer: {args.model} is trained with adam")
    if args.encoding_dim and not encoding_dim[args.model]:
        parser.error(f"argument --encoding-dim: {args.model} has no latent vector")
    args.image_size = (args.image_size * 2)[:2]
    return args


def add_model_flags(group, encoding_dim: dict) -> None:
    """--encoding-dim, with its defaults, --image-size and --beta."""
    group.add_argument(
        "--encoding-dim", metavar="N", type=positive_int, default=encoding_dim, help="length of the latent vector"
    )
    group.add_argument(
        "--image-size",
        metavar="N",
        type=multiple_of_4,
        nargs="+",
        default=[24, 24],
        help="one number, or height and width",
    )
    group.add_argument("--beta", metavar="X", type=positive_float, default=1.0, help="weight of the KL, for VAE")


def multiple_of_4(text: str) -> int:
    """argparse type: 4, 8, 12, ..."""
    value = positive_int(text)
    if value % 4:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 4")
    return value


def build_optimizer(args, parameters, steps_per_epoch: int):
    """(optimizer, scheduler); the scheduler goes one step on with every batch.

    one-cycle (Smith & Topin 2018) raises the learning rate from lr / 25 to lr in the first 30 % of the steps and
    lowers it to nearly 0 in the others; the momentum, Adam's beta1, falls from 0.95 to 0.85 and rises again. The GAN
    has no momentum.
    """
    from torch.optim import SGD, AdamW
    from torch.optim.lr_scheduler import OneCycleLR, StepLR

    if args.optimizer == "adam":
        weight_decay = 0.01 if args.model in GENERATORS else 0.2
        beta1 = 0.0 if args.model == "GAN" else 0.9  # gradients of a game change as the other player moves
        optimizer = AdamW(parameters, args.lr, betas=(beta1, 0.99), weight_decay=weight_decay, fused=True)
    else:
        momentum = 0.9 if args.optimizer == "momentum" else 0.0
        optimizer = SGD(parameters, args.lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    if args.schedule == "step":
        return optimizer, StepLR(optimizer, LR_DECAY_EVERY * steps_per_epoch, LR_DECAY)
    steps, cycle_momentum = args.epochs * steps_per_epoch, args.optimizer != "sgd" and args.model != "GAN"
    return optimizer, OneCycleLR(optimizer, args.lr, steps, anneal_strategy="linear", cycle_momentum=cycle_momentum)


def memory_format(device):
    """How images and weights are stored: with channels last, which is faster except on MPS (PyTorch issue 193349)."""
    import torch

    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def measure(outputs, images, beta: float = 1.0):
    """(the loss to minimise, what the log says of it) for what AE or VAE made of images (B, 3, H, W)."""
    from torch.nn.functional import mse_loss

    from VarAutoencoder import VAE_loss_function, kl_divergence

    pixels = images.numel()  # the loss to minimise is a mean: one learning rate suits every batch and image size
    if not isinstance(outputs, tuple):  # the AE's
        loss = mse_loss(outputs, images, reduction="sum")
        return loss / pixels, {"loss": loss.item() / pixels}
    loss = VAE_loss_function(outputs, images, beta)
    _, mu, log_var = outputs
    kl = kl_divergence(mu.detach(), log_var.detach()).sum().item() / len(images)
    per_image = loss.item() / len(images)
    return loss / pixels, {"loss": VAE_UNIT * per_image, "recon": per_image - beta * kl, "kl": kl}


def make_steps(args, model, optimizer, scheduler, device):
    """(train_step, valid_step, state, load_state), as `fit` takes them."""
    layout, autoencoder = memory_format(device), args.model in ("AE", "VAE")
    average_decay = AVERAGE_DECAY if args.model in GENERATORS else None

    def inputs(images, labels):
        images = images.contiguous(memory_format=layout)
        return (images,) if autoencoder else (images, labels)

    measured = partial(measure, beta=args.beta) if autoencoder else model.measure
    return torch_steps(args, model, inputs, measured, optimizer, scheduler, average_decay)


def describe_parts(best: dict) -> str:
    """The two parts of the best VAE's loss."""
    return f"reconstruction {best['valid_recon']:.3f} + KL {best['valid_kl']:.3f} per validation image"


def diagnose(model, dataset, best: dict, path) -> list[str]:
    """What the latent vector of the best VAE carries: lines for the log, and a picture at `path`."""
    from trained import name_model
    from VarAutoencoder import ACTIVE_VARIANCE, active_dimensions, encode_all
    from visualization import plot_latents

    model.load_state_dict(best["state_dict"])
    mu, log_var = encode_all(model, dataset)
    active, dims = active_dimensions(mu), mu.shape[1]
    used = f"{active} of {dims} latent dimensions active"
    title = f"{name_model(best)}: {used}\non the {len(mu)} validation images of {best['data']['name']}"
    plot_latents(mu, log_var, path, title)
    lines = [f"Diagnostics: {describe_parts(best)}, {used} (variance of mu above {ACTIVE_VARIANCE})"]
    if active == 0 or best["valid_kl"] < COLLAPSED_KL:
        lines.append("Warning: the posterior has collapsed to the prior; try a lower --beta or more --epochs")
    return lines


def build_model(args, dataset):
    """(the model, its config) as the flags ask for it, on its device; dataset: the photographs to train on."""
    import torch

    from trained import flower_model

    height, width = args.image_size
    config = {"encoding_dim": args.encoding_dim} if args.encoding_dim else {"classes": len(dataset.info["classes"])}
    config |= {"img_height": height, "img_width": width}
    model = flower_model(args.model)(**config)
    if args.model == "DDPM":
        model.share.copy_(torch.bincount(dataset.labels, minlength=config["classes"]) / len(dataset))
    image, parameters = f"3x{height}x{width}", sum(param.numel() for param in model.parameters())
    layers = f"{image} -> {args.encoding_dim} -> {image}" if args.model in ("AE", "VAE") else image
    log(f"Model: {args.model}, {layers}, {parameters:,} parameters")
    device = torch.device(args.device)
    return model.to(device, memory_format=memory_format(device)), config


def main(argv=None):
    """Train; returns the history."""
    args = parse_args(argv)
    from data import create_flower_dataloaders, describe  # after the flags: PyTorch takes a second to load
    from visualization import LOSS_UNIT, plot_losses

    device = join(pick_device(args.device))
    args.device = str(device)
    height, width = args.image_size
    loaders = create_flower_dataloaders(
        args.batch_size, args.data_root or FLOWERS_ROOT, width, height, args.data, mirror=True
    )
    info, vis = loaders[0].dataset.info, args.output_root / "vis"
    log(f"Data: {describe(*loaders)}")
    for loader in loaders:
        loader.dataset.to(device)

    seed_everything(args.seed)
    model, config = build_model(args, loaders[0].dataset)
    optimizer, scheduler = build_optimizer(args, model.parameters(), len(loaders[0]))

    def summary(best):
        return diagnose(model, loaders[1].dataset, best, vis / "latent_VAE.png") if args.model == "VAE" else []

    about = {"model": args.model, "config": config, "data": info}
    if args.schedule == "one-cycle":
        about["settings"] = {"epochs": args.epochs}  # the schedule hangs on it
    history = fit(
        args,
        about,
        ".pth",
        loaders,
        *make_steps(args, model, optimizer, scheduler, device),
        summary,
    )
    if RANK == 0:
        title = f"{args.model} on {info['name']}"
        plot_losses(history, vis / f"loss_{args.model}.png", title, LOSS_UNIT[args.model])
    return history


if __name__ == "__main__":
    run_script(main)
