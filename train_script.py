"""Train the convolutional autoencoder (AE) or the variational autoencoder (VAE) on the flowers.

    python train_script.py --model VAE > ./log/train_VAE.txt
    python train_script.py --model AE --optimizer sgd --epochs 60    # the coursework's first experiment
    python train_script.py --model VAE --resume                      # goes on after a stop
    python train_script.py --model VAE --image-size 64 --encoding-dim 128 --data-root DIR

Writes models/BestModel_<M>.pth, models/LastModel_<M>.pth, vis/loss_<M>.png and vis/latent_VAE.png.
"""

import argparse

from training import (
    FLOWERS_ROOT,
    add_data_flags,
    add_torch_flags,
    add_training_flags,
    choose_defaults,
    fit,
    pick_device,
    positive_float,
    positive_int,
    run_script,
    seed_everything,
)

VAE_UNIT = 16  # the coursework states the VAE's loss as the sum over a batch of 16, whatever --batch-size is
COLLAPSED = 0.1  # the share of active latent dimensions below which the VAE's posterior counts as collapsed
LR_DECAY, LR_DECAY_EVERY = 0.9, 5  # the step schedule: x 0.9 every 5 epochs


def parse_args(argv=None):
    """The defaults reach the coursework's targets; some of them hang on --model or --optimizer."""
    parser = argparse.ArgumentParser(
        description="Train AE or VAE on the flowers.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--model", choices=["AE", "VAE"], required=True, default=argparse.SUPPRESS, help="which one to train"
    )
    group = parser.add_argument_group("model")
    group.add_argument("--encoding-dim", metavar="N", type=positive_int, default=64, help="length of the latent vector")
    group.add_argument(
        "--image-size",
        metavar="N",
        type=multiple_of_4,
        nargs="+",
        default=[24, 24],
        help="one number, or height and width",
    )
    group.add_argument("--beta", metavar="X", type=positive_float, default=1.0, help="weight of the KL, for VAE")
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
    add_training_flags(
        parser,
        epochs={"AE": 15, "VAE": 20},
        batch_size=16,
        lr={"sgd": 1.0, "momentum": 1.0, "adam": 2e-3},
        patience=20,
    )
    add_torch_flags(parser)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    choose_defaults(parser, args, "model", ["epochs"])
    choose_defaults(parser, args, "optimizer", ["schedule", "lr"])
    if len(args.image_size) > 2:
        parser.error("argument --image-size: expected one number, or height and width")
    if args.model == "AE" and args.beta != 1:
        parser.error("argument --beta: AE has no KL to weigh")
    args.image_size = (args.image_size * 2)[:2]
    return args


def multiple_of_4(text: str) -> int:
    """argparse type: 4, 8, 12, ..."""
    value = positive_int(text)
    if value % 4:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 4")
    return value


def build_model(name: str, config: dict):
    """AE or VAE from what its checkpoint calls `config`, the arguments of its constructor."""
    from Autoencoder import Autoencoder
    from VarAutoencoder import VarAutoencoder

    return {"AE": Autoencoder, "VAE": VarAutoencoder}[name](**config)


def build_optimizer(args, parameters, steps_per_epoch: int):
    """(optimizer, scheduler); the scheduler goes one step on with every batch."""
    from torch.optim import SGD, AdamW
    from torch.optim.lr_scheduler import OneCycleLR, StepLR

    if args.optimizer == "adam":
        optimizer = AdamW(parameters, args.lr, betas=(0.9, 0.99), weight_decay=0.2, fused=True)
    else:
        momentum = 0.9 if args.optimizer == "momentum" else 0.0
        optimizer = SGD(parameters, args.lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    if args.schedule == "step":
        return optimizer, StepLR(optimizer, LR_DECAY_EVERY * steps_per_epoch, LR_DECAY)
    return optimizer, OneCycleLR(optimizer, args.lr, args.epochs * steps_per_epoch, anneal_strategy="linear")


def memory_format(device):
    """How images and weights are stored: channels last makes convolutions and pooling faster, but slower on MPS."""
    import torch

    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def make_steps(args, model, optimizer, scheduler, device):
    """(train_step, valid_step), as `fit` takes them."""
    import torch

    from VarAutoencoder import VAE_loss_function, kl_divergence

    layout = memory_format(device)

    def measure(outputs, images):
        """The loss summed over the batch, and what the log says of it."""
        if args.model == "AE":
            loss = torch.nn.functional.mse_loss(outputs, images, reduction="sum")
            return loss, {"loss": loss.item() / images.numel()}
        loss = VAE_loss_function(outputs, images, args.beta)
        per_image, kl = loss.item() / len(images), kl_divergence(*outputs[1:]).sum().item() / len(images)
        return loss, {"loss": VAE_UNIT * per_image, "recon": per_image - args.beta * kl, "kl": kl}

    def train_step(images, labels, epoch):
        images = images.to(device, memory_format=layout)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
            outputs = model(images)
        loss, metrics = measure(outputs, images)
        optimizer.zero_grad()
        (loss / images.numel()).backward()  # a mean: one learning rate suits every batch and image size
        optimizer.step()
        scheduler.step()
        return metrics

    @torch.no_grad()
    def valid_step(images, labels):
        images = images.to(device, memory_format=layout)
        return measure(model(images), images)[1]

    return train_step, valid_step


def diagnose(model, loader, best: dict, path) -> list[str]:
    """What the latent vector of the best VAE carries: lines for the log, and a picture at `path`."""
    from VarAutoencoder import ACTIVE_VARIANCE, active_dimensions, encode_all
    from visualization import plot_latents

    model.load_state_dict(best["state_dict"])
    mu, log_var = encode_all(model, loader)
    active, dims = active_dimensions(mu), mu.shape[1]
    used = f"{active} of {dims} latent dimensions active"
    title = f"VAE, epoch {best['epoch']}: {used}\non the {len(mu)} validation images of {best['data']['name']}"
    plot_latents(mu, log_var, path, title)
    lines = [
        f"Diagnostics: reconstruction {best['valid_recon']:.3f} + KL {best['valid_kl']:.3f} per validation image,"
        f" {used} (variance of mu above {ACTIVE_VARIANCE})"
    ]
    if active < COLLAPSED * dims:
        lines.append("Warning: the posterior has collapsed to the prior; try a lower --beta or more --epochs")
    return lines


def main(argv=None):
    """Train; returns the history."""
    args = parse_args(argv)
    from data import create_flower_dataloaders, describe  # after the flags: PyTorch takes a second to load
    from visualization import plot_losses

    device = pick_device(args.device)
    height, width = args.image_size
    loaders = create_flower_dataloaders(
        args.batch_size, args.data_root or FLOWERS_ROOT, width, height, args.data, mirror=True
    )
    info, vis = loaders[0].dataset.info, args.output_root / "vis"
    print("Data:", describe(*loaders), flush=True)

    seed_everything(args.seed)
    config = {"encoding_dim": args.encoding_dim, "img_height": height, "img_width": width}
    model = build_model(args.model, config).to(device, memory_format=memory_format(device))
    image, parameters = f"3x{height}x{width}", sum(param.numel() for param in model.parameters())
    print(f"Model: {args.model}, {image} -> {args.encoding_dim} -> {image}, {parameters:,} parameters", flush=True)
    optimizer, scheduler = build_optimizer(args, model.parameters(), len(loaders[0]))

    def state():
        return {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": scheduler.last_epoch}

    def load_state(state):
        model.load_state_dict(state["state_dict"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.last_epoch = state["steps"]  # not all of its state: --epochs may have become more

    def summary(best):
        return diagnose(model, loaders[1], best, vis / "latent_VAE.png") if args.model == "VAE" else []

    history = fit(
        args,
        {"model": args.model, "config": config, "data": info},
        ".pth",
        loaders,
        *make_steps(args, model, optimizer, scheduler, device),
        state,
        load_state,
        summary,
    )
    plot_losses(history, vis / f"loss_{args.model}.png", args.model, info)
    return history


if __name__ == "__main__":
    run_script(main)
