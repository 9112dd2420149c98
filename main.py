"""Train AE, VAE or CVAE on MNIST, and plot what it has learnt.

    python main.py --model VAE > ./log/train_MNIST_VAE.txt
    python main.py --model CVAE --figures-only --labels 2 0 2 6      # from the checkpoint, without training
    python main.py --model VAE --latent-size 2 --output-root plane       # the latent space as a picture
    python main.py --model CVAE --gif                                # and how the digits come about

Writes models/BestModel_MNIST_<M>.pth, models/LastModel_MNIST_<M>.pth, vis/loss_MNIST_<M>.png and vis/mnist_<M>_*.png.
"""

import math

from training import flags

DEFAULTS = {  # of flags, for each --model; --kl-peak is of use where labels let z say little
    "AE": {"recon": "mse", "beta": None, "kl_peak": None},
    "VAE": {"recon": "bce", "beta": 1.0, "kl_peak": 1.0},
    "CVAE": {"recon": "bce", "beta": 1.0, "kl_peak": 3.3},
}
READ_BY_FIGURES = {"model", "labels", "seed", "data", "data_root", "output_root", "figures_only"}  # flags


def parse_args(argv=None):
    """The flags; the loss depends on --model."""
    parser = flags.make_parser("Train AE, VAE or CVAE on MNIST.", DEFAULTS)
    flags.add_model_flag(parser, DEFAULTS, "which one to train", required=True)
    group = parser.add_argument_group("model")
    size, weight = {"metavar": "N", "type": flags.positive_int}, {"metavar": "X", "type": flags.positive_float}
    group.add_argument("--hidden-size", **size, default=512, help="width of the hidden layers")
    group.add_argument("--latent-size", **size, default=20, help="length of the latent vector")
    group.add_argument("--recon", choices=["bce", "mse"], help="cross-entropy or squared errors")
    group.add_argument("--beta", **weight, help="weight of the KL")
    group.add_argument("--kl-peak", **weight, help="factor on --beta: rises from 1 to X half-way, falls to 1")
    flags.add_training_flags(parser, epochs=10, batch_size=128, lr=4e-3, patience=10)
    flags.add_torch_flags(parser)
    flags.add_data_flags(parser, flags.MNIST_HELP)
    group = parser.add_argument_group("figures")
    group.add_argument("--figures-only", action="store_true", help="plot them from the checkpoint, without training")
    group.add_argument("--labels", metavar="DIGIT", type=flags.digit, nargs="+", help="also write these, with CVAE")
    group.add_argument("--gif", action="store_true", help="also film how latent vectors turn into digits")
    parser.set_defaults(**DEFAULTS.get(flags.find_model(flags.peek(argv, "model").model, DEFAULTS), {}))
    args = parser.parse_args(argv)
    if args.model != "CVAE" and args.labels:
        parser.error(f"argument --labels: {args.model} knows no labels; use --model CVAE")
    if args.model == "AE" and (args.beta or args.kl_peak):
        parser.error("argument --beta or --kl-peak: AE has no KL to weigh")
    for name in set(flags.given(parser, args)) - READ_BY_FIGURES if args.figures_only else ():
        flag = name.replace("_", "-")
        parser.error(f"argument --{flag}: --figures-only does not train, it would be ignored; leave out one of them")
    return args


if __name__ == "__main__":
    flags.parse_first(parse_args)

import torch
from torch.nn.functional import binary_cross_entropy, mse_loss
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from data import create_mnist_dataloaders, describe, mean_image_loss, output_root
from evaluation.models import load_model, loss_unit, name_model, name_source, three_digits
from evaluation.sampling import between, interpolate, manifold, project
from model import CLASSES, build_model
from training import UserError
from training.distributed import init_distributed, rank, rank_0_first
from training.figures import plot_film, plot_latent_space, plot_losses, plot_reconstructions, plot_samples
from training.learner import TorchLearner
from training.loop import fit, last_line, warn_unless_below
from training.script import log, run_script, seed_everything

EXAMPLES, SAMPLES = 20, 100  # digits to reconstruct, and to sample
STEPS, HANDS, MANIFOLD = 10, 5, 20  # digits of an interpolation, rows for --labels, side of the manifold


class Losses:
    """What the models minimise, per image: reconstruction + beta KL(q(z|x) || N(0, I)).

    That is the negative evidence lower bound (Kingma & Welling 2014, equation 3) for beta 1; beta other than 1 weights
    the KL (Higgins et al. 2017). beta None: there is no KL, as for the AE. recon says what -log p(x|z) is:
    "bce", the cross-entropy of a Bernoulli distribution for each pixel, in nats; "mse", the squared errors, which are
    those of a Gaussian of variance 1/2, up to a constant.
    """

    def __init__(self, recon: str = "bce", beta: float | None = 1.0):
        self.recon, self.beta = recon, beta

    def reconstruction(self, reconstructions, xs):
        """-log p(x|z) of images (B, ...), summed over the pixels: (B,). Raises UserError for values outside [0, 1]."""
        low, high = (bound.item() for bound in xs.aminmax())
        if not 0 <= low <= high <= 1:
            raise UserError(f"expected images with values from 0 to 1, found {low:g} to {high:g}")
        if not reconstructions.isfinite().all():  # cross-entropy would raise; the training loop says what to do
            return reconstructions.flatten(1).sum(dim=1)
        per_pixel = binary_cross_entropy if self.recon == "bce" else mse_loss
        return per_pixel(reconstructions, xs, reduction="none").flatten(1).sum(dim=1)

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
        if self.beta is None:  # the AE's squared error is stated per pixel, like the flowers'
            loss = self.reconstruction(outputs, xs).mean()
            return loss, {"loss": loss.item() / (xs[0].numel() if self.recon == "mse" else 1)}
        reconstructions, mu, sigma = outputs
        recon = self.reconstruction(reconstructions, xs).mean()
        kl = self.kl_div((mu, sigma), (mu.new_zeros(()), mu.new_ones(()))).mean()
        loss = recon + (self.beta if kl_weight is None else kl_weight) * kl
        parts = {"recon": recon.item(), "kl": kl.item()}
        return loss, {"loss": parts["recon"] + self.beta * parts["kl"], **parts}


def build_learner(args, config: dict, steps: int, gif: bool) -> TorchLearner:
    """Model, loss, optimizer and schedule, for so many steps in all."""
    model = build_model(args.model, **config).to(args.device)
    hidden, parameters = f"{args.hidden_size} -> {args.hidden_size}", sum(param.numel() for param in model.parameters())
    layers = f"784 -> {hidden} -> {args.latent_size} -> {hidden} -> 784"
    log(f"Model: {args.model}, {layers}, {parameters:,} parameters")
    optimizer = AdamW(model.parameters(), args.lr, betas=(0.9, 0.99), fused=True)
    scheduler = OneCycleLR(optimizer, args.lr, steps, anneal_strategy="linear", cycle_momentum=False)
    losses = Losses(args.recon, args.beta)

    def measure(outputs, images):
        if args.kl_peak is None:
            return losses(outputs, images)
        done = scheduler.last_epoch / steps  # of the training, from 0 to 1
        return losses(outputs, images, args.beta * (1 + (args.kl_peak - 1) * math.sin(math.pi * done)))

    if gif:
        return FilmedLearner(*latents_and_labels(model, args.seed), model, measure, optimizer, scheduler, args.amp)
    return TorchLearner(model, measure, optimizer, scheduler, args.amp)


class FilmedLearner(TorchLearner):
    """Keeps frames: what the same latent vectors turn into, before the training and after each epoch."""

    def __init__(self, zs, ys, model, *args):
        super().__init__(model, *args)
        device = next(model.parameters()).device
        self.latents, self.frames = (zs.to(device), ys if ys is None else ys.to(device)), []

    def shoot(self) -> None:
        """Add a frame."""
        self.frames.append(self.model.decode(*self.latents).cpu())

    def train_step(self, images, labels, epoch):
        """One step, with a frame before the first one of each epoch."""
        if len(self.frames) < epoch:
            self.shoot()
        return super().train_step(images, labels, epoch)

    def state_dict(self):
        """With the frames, for --resume."""
        return {**super().state_dict(), "frames": self.frames}

    def load_state_dict(self, state):
        """Raises ValueError where the run was not filmed."""
        if "frames" not in state:
            raise ValueError("it was not filmed; leave out --gif or --resume")
        super().load_state_dict(state)
        self.frames = state["frames"]


def latents_and_labels(model, seed: int):
    """SAMPLES latent vectors from N(0, I), and their labels or None: for the CVAE, ten rows, one for each digit, with
    the same latent vectors in every row."""
    zs = torch.randn(SAMPLES, model.encoder.mu.out_features, generator=torch.Generator().manual_seed(seed))
    if not model.has_label:
        return zs, None
    hands = SAMPLES // CLASSES
    return zs[:hands].repeat(CLASSES, 1), torch.arange(CLASSES).repeat_interleave(hands)


def plot_all(args, model, checkpoint: dict, test_set, labels: list[int] | None) -> None:
    """Every figure of a trained model."""
    trained_on, latents = checkpoint["data"]["name"], f"{checkpoint['config']['latent_size']} latents"
    path = args.output_root / "vis" / f"loss_MNIST_{args.model}.png"
    title = f"{args.model}, {latents}, on {trained_on}"
    plot_losses(checkpoint["history"], path, title, loss_unit(checkpoint["model"], checkpoint["settings"]))
    name = f"{name_model(checkpoint)}\n{latents}"
    plot_random(args, model, f"{name}, trained on {trained_on}", labels)
    args.output_root = output_root(args.output_root, test_set.info, checkpoint["data"])
    plot_test_set(args, model, test_set, f"{name}, test images of {name_source(test_set.info, checkpoint)}")


def plot_test_set(args, model, test_set, title: str) -> None:
    """Reconstructions, latent space and, for the VAE, interpolations."""
    images, digits = test_set.to("cpu")[:]
    ys = digits if model.has_label else None
    codes = model.encode(images, ys)
    if not codes.isfinite().all():
        raise UserError(f"the weights of {args.model} are damaged, its latent vectors not finite; train it anew")
    reconstructions = model.decode(codes, ys)
    error = f"mean squared error of the whole test set {three_digits(mse_loss(reconstructions, images).item())}"
    shown = images[:EXAMPLES].numpy(), reconstructions[:EXAMPLES].numpy()
    plot_reconstructions(*shown, figure_path(args, "reconstruction"), f"{title}\n{error}")
    axis = "latent dimension" if codes.shape[1] <= 2 else "principal component"
    plot_latent_space(project(codes).numpy(), digits.numpy(), figure_path(args, "latent"), title, axis)
    if model.is_dist and not model.has_label:
        walks = between(images[:EXAMPLES], model.decode(interpolate(codes[:EXAMPLES], STEPS))).numpy()
        title += ": from one (left) to another (right) in equal steps between the means of q(z|x)"
        plot_samples(walks, figure_path(args, "interpolation"), title, STEPS + 2)


def plot_random(args, model, title: str, labels: list[int] | None) -> None:
    """Random digits; with labels, those digits in several hands; and the whole latent space, where it is a plane."""
    zs, ys = latents_and_labels(model, args.seed)
    sampled = f"{title}: z from N(0, 1), seed {args.seed}"
    row_labels = None if ys is None else [str(digit) for digit in range(10)]
    sampled_by_row = sampled if ys is None else f"{sampled}, the same down each column"
    plot_samples(model.decode(zs, ys).numpy(), figure_path(args, "samples"), sampled_by_row, labels=row_labels)
    if labels:
        hands, ys = zs[:HANDS].repeat_interleave(len(labels), dim=0), ys.new_tensor(labels).repeat(HANDS)
        plot_samples(model.decode(hands, ys).numpy(), figure_path(args, "labels"), f"{sampled}, one a row", len(labels))
    if model.is_dist and not model.has_label and zs.shape[1] == 2:
        plane = model.decode(manifold(MANIFOLD)).numpy()
        title = f"{title}: z at evenly spaced quantiles of N(0, 1)"
        plot_samples(plane, figure_path(args, "manifold"), title, MANIFOLD)


def figure_path(args, name: str, suffix: str = "png"):
    """The path of one of the model's figures."""
    return args.output_root / "vis" / f"mnist_{args.model}_{name}.{suffix}"


def train(args, loaders, gif: bool) -> list[dict]:
    """Train as args say; with gif, film it. Returns the history."""
    info = loaders[0].dataset.info
    log(f"Data: {describe(*loaders)}")
    args.output_root = output_root(args.output_root, info)
    for loader in loaders:
        loader.dataset.to(args.device)
    seed_everything(args.seed)
    config = {"hidden_size": args.hidden_size, "latent_size": args.latent_size}
    learner = build_learner(args, config, args.epochs * len(loaders[0]), gif)
    about = {"model": f"MNIST_{args.model}", "config": config, "data": info, "settings": {"epochs": args.epochs}}
    best = fit(args, about, loaders, learner)
    prior = torch.tensor([[[0.0]], [[1.0]]], device=args.device) if learner.model.is_dist else ()  # mu and sigma
    warn_unless_below(mean_image_loss(loaders, Losses(args.recon, args.beta), *prior), best)
    if rank() == 0:
        log(last_line(best, learner.suffix))
        if gif:
            learner.shoot()
            titles = [f"{args.model} on {info['name']}, epoch {epoch}" for epoch in range(len(learner.frames))]
            plot_film([frame.numpy() for frame in learner.frames], figure_path(args, "training", "gif"), titles)
    return best["history"]


def main(argv=None, loaders=None):
    """Train and plot; returns the history. loaders: those of MNIST, where it is read already."""
    args = parse_args(argv)
    figures_only, labels, gif = (vars(args).pop(name) for name in ("figures_only", "labels", "gif"))
    args.device, name = str(init_distributed(args.device)), f"MNIST_{args.model}"
    trained = load_model(name, args.output_root) if figures_only else None
    with rank_0_first():  # it may have to download them
        loaders = loaders or create_mnist_dataloaders(args.batch_size, args.data_root, args.data)
    history = trained[1]["history"] if trained else train(args, loaders, gif)
    if rank() == 0:
        model, checkpoint = trained or load_model(name, args.output_root)
        plot_all(args, model, checkpoint, loaders[1].dataset, labels)
    return history


if __name__ == "__main__":
    run_script(main)
