"""Train AE, VAE or CVAE on MNIST, and draw what it has learnt.

    python main.py --model VAE > ./log/train_MNIST_VAE.txt
    python main.py --model CVAE --figures-only --labels 2 0 2 6      # from the checkpoint, without training
    python main.py --model VAE --latent-size 2 --output-root plane       # the latent space as a picture
    python main.py --model CVAE --gif                                # and how the digits come about

Writes models/BestModel_MNIST_<M>.pth, models/LastModel_MNIST_<M>.pth, vis/loss_MNIST_<M>.png and vis/mnist_<M>_*.png.
"""

import argparse
import math
import sys

from checkpoints import UserError, take_over
from parallel import RANK, join, rank_0_first
from training import (
    MNIST_HELP,
    MNIST_ROOT,
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

EXAMPLES, SAMPLES = 20, 100  # digits to reconstruct, and to draw
STEPS, HANDS, MANIFOLD = 10, 5, 20  # digits of an interpolation, rows for --labels, side of the manifold


class Losses:
    """What the models minimise, per image: reconstruction + beta KL(q(z|x) || N(0, I)).

    That is the negative evidence lower bound (Kingma & Welling 2014, equation 3) for beta 1; beta other than 1 weighs
    the KL (Higgins et al. 2017). The AE has only the reconstruction. recon says what -log p(x|z) is:
    "bce", the cross-entropy of a Bernoulli distribution for each pixel, in nats; "mse", the squared errors, which are
    those of a Gaussian of variance 1/2, up to a constant.
    """

    def __init__(self, recon: str = "bce", beta: float = 1.0):
        self.recon, self.beta = recon, beta

    def reconstruction(self, reconstructions, xs):
        """-log p(x|z) of images (B, ...), summed over the pixels: (B,). Raises UserError for values outside [0, 1]."""
        from torch.nn.functional import binary_cross_entropy, mse_loss

        low, high = (bound.item() for bound in xs.aminmax())
        if not 0 <= low <= high <= 1:
            raise UserError(f"expected images with values from 0 to 1, found {low:g} to {high:g}")
        if not reconstructions.isfinite().all():  # cross-entropy would raise; the training loop says what to do
            return reconstructions.flatten(1).sum(dim=1)
        of_pixels = binary_cross_entropy if self.recon == "bce" else mse_loss
        return of_pixels(reconstructions, xs, reduction="none").flatten(1).sum(dim=1)

    def kl_div(self, p, q):
        """KL(p || q) of two diagonal Gaussians, each (mean, standard deviation) of shape (B, D), in nats: (B,).

        sum over d of  log(sigma_q / sigma_p) + (sigma_p^2 + (mu_p - mu_q)^2) / (2 sigma_q^2) - 1/2
        """
        (mu_p, sigma_p), (mu_q, sigma_q) = p, q
        ratio = sigma_p / sigma_q
        kl = 0.5 * (ratio.square() + ((mu_p - mu_q) / sigma_q).square() - 1) - ratio.log()
        return kl.sum(dim=1)

    def __call__(self, outputs, xs, kl_weight=None):
        """(mean loss of an image, what the log says of it), for what a model made of images xs.

        kl_weight takes the place of beta in the loss to minimise, not in what the log says.
        """
        if not isinstance(outputs, tuple):  # the AE's; its squared error is stated per pixel, like the flowers'
            loss = self.reconstruction(outputs, xs).mean()
            return loss, {"loss": loss.item() / (xs[0].numel() if self.recon == "mse" else 1)}
        reconstructions, mu, sigma = outputs
        recon = self.reconstruction(reconstructions, xs).mean()
        kl = self.kl_div((mu, sigma), (mu.new_zeros(()), mu.new_ones(()))).mean()
        loss = recon + (self.beta if kl_weight is None else kl_weight) * kl
        parts = {"recon": recon.item(), "kl": kl.item()}
        return loss, {"loss": parts["recon"] + self.beta * parts["kl"], **parts}


def parse_args(argv=None):
    """The flags; the reconstruction loss hangs on --model."""
    parser = argparse.ArgumentParser(description="Train AE, VAE or CVAE on MNIST.", formatter_class=HelpFormatter)
    parser.add_argument("--model", choices=["AE", "VAE", "CVAE"], required=True, help="which one to train")
    group = parser.add_argument_group("model")
    group.add_argument("--hidden-size", metavar="N", type=positive_int, default=512, help="width of the hidden layers")
    group.add_argument("--latent-size", metavar="N", type=positive_int, default=20, help="length of the latent vector")
    recon = {"AE": "mse", "VAE": "bce", "CVAE": "bce"}
    group.add_argument("--recon", choices=["bce", "mse"], default=recon, help="cross-entropy or squared errors")
    weight = {"AE": None, "VAE": 1.0, "CVAE": 1.0}
    group.add_argument("--beta", metavar="X", type=positive_float, default=weight, help="weight of the KL")
    peak = {"AE": None, "VAE": 1.0, "CVAE": 3.3}
    group.add_argument(
        "--kl-peak",
        metavar="X",
        type=positive_float,
        default=peak,
        help="factor on --beta: rises from 1 to X half-way, falls to 1",
    )
    add_training_flags(parser, epochs=10, batch_size=128, lr=4e-3, patience=10)
    add_torch_flags(parser)
    add_data_flags(parser, MNIST_HELP)
    group = parser.add_argument_group("pictures")
    group.add_argument("--figures-only", action="store_true", help="draw them from the checkpoint, without training")
    labels = {"type": int, "choices": range(10), "nargs": "+"}
    group.add_argument("--labels", metavar="DIGIT", **labels, help="also write these digits, with CVAE")
    group.add_argument("--gif", action="store_true", help="also film how latent vectors turn into digits")
    args = parser.parse_args(argv)
    choose_defaults(parser, args, "model", ["recon", "beta", "kl_peak"])
    if args.model == "AE" and (args.beta or args.kl_peak):
        parser.error("argument --beta or --kl-peak: AE has no KL to weigh")
    if args.labels and args.model != "CVAE":
        parser.error(f"argument --labels: {args.model} knows no labels; use --model CVAE")
    if args.gif and args.figures_only:
        parser.error("argument --gif: it is filmed while training, leave out --figures-only")
    return args


def train(args, loaders, gif: bool) -> list[dict]:
    """Train as args say; with gif, film it. Returns the history."""
    from torch.optim import AdamW
    from torch.optim.lr_scheduler import OneCycleLR

    from model import build_model

    info = loaders[0].dataset.info
    for loader in loaders:
        loader.dataset.to(args.device)
    seed_everything(args.seed)
    config = {"hidden_size": args.hidden_size, "latent_size": args.latent_size}
    model = build_model(args.model, **config).to(args.device)
    half, parameters = f"{args.hidden_size} -> {args.hidden_size}", sum(param.numel() for param in model.parameters())
    layers = f"784 -> {half} -> {args.latent_size} -> {half} -> 784"
    log(f"Model: {args.model}, {layers}, {parameters:,} parameters")
    optimizer = AdamW(model.parameters(), args.lr, betas=(0.9, 0.99), fused=True)
    steps = args.epochs * len(loaders[0])
    scheduler = OneCycleLR(optimizer, args.lr, steps, anneal_strategy="linear", cycle_momentum=False)
    losses = Losses(args.recon, args.beta)

    def inputs(images, labels):
        return (images, labels)[: 2 if args.model == "CVAE" else 1]

    def measure(outputs, images):
        if args.model == "AE":
            return losses(outputs, images)
        done = scheduler.last_epoch / steps  # of the training, from 0 to 1
        return losses(outputs, images, args.beta * (1 + (args.kl_peak - 1) * math.sin(math.pi * done)))

    run = torch_steps(args, model, inputs, measure, optimizer, scheduler)
    film = Film(args, model) if gif else None
    about = {"model": f"MNIST_{args.model}", "config": config, "data": info, "settings": {"epochs": args.epochs}}
    history = fit(args, about, ".pth", loaders, *(film.of(*run) if gif else run))
    if gif and RANK == 0:
        film.save(picture(args, "training", "gif"), f"{args.model} on {info['name']}")
    return history


class Film:
    """What the same latent vectors turn into, before the training and after each epoch; it is saved for --resume."""

    def __init__(self, args, model):
        from model import draw_latents

        zs, ys = draw_latents(args.model, args.latent_size, SAMPLES, args.seed)
        self.model, self.frames = model, []
        self.latents = zs.to(args.device), ys if ys is None else ys.to(args.device)

    def shoot(self):
        """Add a frame."""
        self.frames.append(self.model.decode(*self.latents).cpu())

    def of(self, train_step, valid_step, state, load_state):
        """The same four, as `fit` takes them, with a frame before each epoch."""

        def filmed_train_step(images, labels, epoch):
            if len(self.frames) < epoch:  # it is the epoch's first batch
                self.shoot()
            return train_step(images, labels, epoch)

        def filmed_load_state(saved):
            if "film" not in saved:
                raise ValueError("it was not filmed; leave out --gif or --resume")
            frame = self.model.decode(*self.latents).cpu()
            load_state(saved)
            self.frames = take_over(saved["film"], [frame] * len(saved["history"]))

        return filmed_train_step, valid_step, lambda: {**state(), "film": self.frames}, filmed_load_state

    def save(self, path, title: str):
        """Add the last frame, and write the GIF."""
        from visualization import plot_film

        self.shoot()
        titles = [f"{title}, epoch {epoch}" for epoch in range(len(self.frames))]
        plot_film([frame.numpy() for frame in self.frames], path, titles)


def draw(args, model, checkpoint: dict, test_set, labels: list[int] | None) -> None:
    """Every picture of a trained model."""
    from trained import name_model, name_source
    from visualization import plot_losses

    trained_on, settings = checkpoint["data"]["name"], checkpoint["settings"]
    latents = f"{model.encoder.mu.out_features} latents"
    path = args.output_root / "vis" / f"loss_MNIST_{args.model}.png"
    title = f"{args.model}, {latents}, on {trained_on}"
    plot_losses(checkpoint["history"], path, title, unit_of(args.model, settings))
    name = f"{name_model(checkpoint)}, {latents}"
    stand_in = test_set.info["name"] == "synthetic digits"
    if args.data == "auto" and stand_in and trained_on != test_set.info["name"]:
        print("note: MNIST is not here, so its test images are not drawn again", file=sys.stderr)
    else:
        source = name_source(test_set.info, checkpoint)
        draw_test_set(args, model, test_set, f"{name}:\ntest images of {source}")
    draw_samples(args, model, f"{name}, trained on {trained_on}", labels)


def unit_of(model: str, settings: dict) -> str:
    """What the loss of the log is."""
    recon, beta = settings["recon"], settings.get("beta")
    if model == "AE":
        return "mean squared error" if recon == "mse" else "cross-entropy, nats per image"
    kl = "KL" if beta == 1 else f"{beta:g} KL"
    return f"cross-entropy + {kl} per image, in nats" if recon == "bce" else f"squared errors + {kl} per image"


def draw_test_set(args, model, test_set, title: str) -> None:
    """Reconstructions, latent space and, for the VAE, interpolations."""
    from torch.nn.functional import mse_loss

    from model import interpolate, project
    from visualization import plot_latent_space, plot_reconstructions, plot_samples

    images, digits = test_set.to("cpu")[:]
    ys = digits if args.model == "CVAE" else None
    codes = model.encode(images, ys)
    if not codes.isfinite().all():
        raise UserError(f"the weights of {args.model} are damaged, its latent vectors not finite; train it anew")
    reconstructions = model.decode(codes, ys)
    error = f"mean squared error of the whole test set {mse_loss(reconstructions, images):.4f}"
    shown = images[:EXAMPLES].numpy(), reconstructions[:EXAMPLES].numpy()
    plot_reconstructions(*shown, picture(args, "reconstruction"), f"{title}\n{error}")
    axis = "latent dimension" if codes.shape[1] <= 2 else "principal component"
    plot_latent_space(project(codes).numpy(), digits.numpy(), picture(args, "latent"), title, axis)
    if args.model == "VAE":
        walks = model.decode(interpolate(codes[:EXAMPLES], STEPS))
        plot_samples(
            walks.numpy(), picture(args, "interpolation"), f"{title}, from the mean of one to the mean of another"
        )


def draw_samples(args, model, title: str, labels: list[int] | None) -> None:
    """Random digits; with labels, those digits in several hands; and the whole latent space, where it is a plane."""
    from model import draw_latents, manifold
    from visualization import plot_samples

    latent_size = model.encoder.mu.out_features
    zs, ys = draw_latents(args.model, latent_size, SAMPLES, args.seed)
    sampled = f"{title}:\nz from N(0, 1), seed {args.seed}"
    of_rows = None if ys is None else [str(digit) for digit in range(10)]
    sampled_by_row = sampled if ys is None else f"{sampled}, the same down each column"
    plot_samples(model.decode(zs, ys).numpy(), picture(args, "samples"), sampled_by_row, labels=of_rows)
    if labels:
        hands, ys = zs[:HANDS].repeat_interleave(len(labels), dim=0), ys.new_tensor(labels).repeat(HANDS)
        plot_samples(model.decode(hands, ys).numpy(), picture(args, "labels"), f"{sampled}, one a row", len(labels))
    if args.model == "VAE" and latent_size == 2:
        plane = model.decode(manifold(MANIFOLD)).numpy()
        plot_samples(plane, picture(args, "manifold"), f"{title}:\nz at evenly spaced quantiles of N(0, 1)", MANIFOLD)


def picture(args, name: str, suffix: str = "png"):
    """The path of one of the model's pictures."""
    return args.output_root / "vis" / f"mnist_{args.model}_{name}.{suffix}"


def main(argv=None):
    """Train and draw; returns the history."""
    args = parse_args(argv)
    figures_only, labels, gif = (vars(args).pop(name) for name in ("figures_only", "labels", "gif"))
    args.device = str(join(pick_device(args.device)))
    from trained import load_model

    name = f"MNIST_{args.model}"
    trained = load_model(name, args.output_root) if figures_only else None
    from data import create_mnist_dataloaders, describe  # after the flags: PyTorch takes a second to load

    with rank_0_first():  # it may have to download them
        loaders = create_mnist_dataloaders(args.batch_size, args.data_root or MNIST_ROOT, args.data)
    if not figures_only:
        log(f"Data: {describe(*loaders)}")
        history = train(args, loaders, gif)
    if RANK == 0:
        model, checkpoint = trained or load_model(name, args.output_root)
        draw(args, model, checkpoint, loaders[1].dataset, labels)
    return trained[1]["history"] if figures_only else history


if __name__ == "__main__":
    run_script(main)
