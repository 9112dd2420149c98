"""What main.py does with trained models: figures of what they make of test digits and of random latent vectors, and the
likelihood of test digits."""

import math

import torch
from torch.nn.functional import mse_loss

from data import ImageDataset, binarize, output_root
from evaluation.completion import evaluate_completion
from evaluation.likelihood import describe_estimate, describe_grey, estimate_likelihood
from evaluation.models import loss_unit, name_model, name_source, three_digits
from evaluation.sampling import BATCH, between, fit_prior, interpolate, manifold, project, sample_latents
from model import CLASSES, MODELS
from training import UserError
from training.figures import plot_latent_space, plot_losses, plot_reconstructions, plot_samples
from training.flags import SAMPLERS
from training.learner import TorchLearner
from training.script import log

EXAMPLES, SAMPLES = 20, 100  # digits to reconstruct, and to sample
FITTED_TO = 10_000  # training digits at most; more would take longer and change little
STEPS, HANDS, MANIFOLD = 10, 5, 20  # digits of an interpolation, rows for --labels, side of the manifold


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

    def load_weights(self, weights):
        """Add the last frame before the best weights take the place of the last ones."""
        self.shoot()
        super().load_weights(weights)

    def state_dict(self):
        """With the frames, for --resume."""
        return {**super().state_dict(), "frames": self.frames}

    def load_state_dict(self, state):
        """Raises ValueError where the run was not filmed."""
        if "frames" not in state:
            raise ValueError("it was not filmed; leave out --gif or --resume")
        super().load_state_dict(state)
        self.frames = state["frames"]


def normal_latents(model, seed: int) -> torch.Tensor:
    """(SAMPLES, D) latent vectors from N(0, I)."""
    return torch.randn(SAMPLES, model.encoder.mu.out_features, generator=torch.Generator().manual_seed(seed))


def latents_and_labels(model, seed: int, prior=None):
    """SAMPLES latent vectors from N(0, I), or from another prior, and their labels or None: for the CVAE, ten rows, one
    for each digit, with the same latent vectors in every row."""
    zs = normal_latents(model, seed)
    if prior:
        zs = sample_latents(prior, SAMPLES, seed)
    if not model.has_label:
        return zs, None
    hands = SAMPLES // CLASSES
    return zs[:hands].repeat(CLASSES, 1), torch.arange(CLASSES).repeat_interleave(hands)


@torch.no_grad()
def fit_digits(sampler: str, model, train_set, seed: int, binarized: bool = False):
    """The distribution of latent vectors that --sampler names, fitted to those of the training digits, none of them
    moved (--shift): a VAE's are samples of q(z|x). None for N(0, I). binarized: their pixels are drawn, once."""
    if sampler == "normal":
        return None
    digits = ImageDataset(train_set.images[:FITTED_TO].cpu(), train_set.labels[:FITTED_TO].cpu(), train_set.info)
    torch.manual_seed(seed)
    parts = zip(*(part.split(BATCH) for part in (binarize(digits) if binarized else digits)[:]), strict=True)
    codes = torch.cat([model.encode(xs, ys if model.has_label else None, sampled=True) for xs, ys in parts])
    return fit_prior(sampler, check_codes(model, codes))


def check_codes(model, codes: torch.Tensor) -> torch.Tensor:
    """Latent vectors as they are. Raises UserError where they are not finite."""
    if not codes.isfinite().all():
        name = next(name for name, kind in MODELS.items() if type(model) is kind)
        raise UserError(f"the weights of {name} are damaged, its latent vectors not finite; train it anew")
    return codes


def plot_all(args, model, checkpoint: dict, loaders) -> None:
    """Every figure of a trained model."""
    trained_on, latents = checkpoint["data"]["name"], f"{checkpoint['config']['latent_size']} latents"
    path = args.output_root / "vis" / f"loss_MNIST_{args.model}.png"
    title = f"{args.model}, {latents}, on {trained_on}"
    plot_losses(checkpoint["history"], path, title, loss_unit(checkpoint["model"], checkpoint["settings"]))
    name = f"{name_model(checkpoint)}\n{latents}"
    binarized = checkpoint["settings"]["binarize"]
    prior = fit_digits(args.sampler, model, loaders[0].dataset, args.seed, binarized)
    plot_random(args, model, f"{name}, trained on {trained_on}", prior)
    test_set = loaders[-1].dataset
    args.output_root = output_root(args.output_root, test_set.info, checkpoint["data"])
    plot_test_set(args, model, test_set, f"{name}, test images of {name_source(test_set.info, checkpoint)}")


def plot_test_set(args, model, test_set, title: str) -> None:
    """Reconstructions, latent space and, for the VAE, interpolations."""
    images, digits = test_set.to("cpu")[:]
    ys = digits if model.has_label else None
    codes = check_codes(model, model.encode(images, ys))
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


def plot_random(args, model, title: str, prior) -> None:
    """Random digits; with --labels, those digits in several hands; and the whole latent space, where it is a plane."""
    zs, ys = latents_and_labels(model, args.seed, prior)
    kind, source = (f"_{args.sampler}", SAMPLERS[args.sampler]) if prior else ("", "N(0, 1)")
    sampled = f"{title}: z from {source}, seed {args.seed}"
    row_labels = None if ys is None else [str(digit) for digit in range(10)]
    sampled_by_row = sampled if ys is None else f"{sampled}, the same down each column"
    plot_samples(model.decode(zs, ys).numpy(), figure_path(args, f"samples{kind}"), sampled_by_row, labels=row_labels)
    if args.labels:
        hands, ys = zs[:HANDS].repeat_interleave(len(args.labels), dim=0), ys.new_tensor(args.labels).repeat(HANDS)
        written = model.decode(hands, ys).numpy()
        plot_samples(written, figure_path(args, f"labels{kind}"), f"{sampled}, one a row", len(args.labels))
    if model.is_dist and not model.has_label and zs.shape[1] == 2:
        plane = model.decode(manifold(MANIFOLD)).numpy()
        title = f"{title}: z at evenly spaced quantiles of N(0, 1)"
        plot_samples(plane, figure_path(args, "manifold"), title, MANIFOLD)


def figure_path(args, name: str, suffix: str = "png"):
    """The path of one of the model's figures."""
    return args.output_root / "vis" / f"mnist_{args.model}_{name}.{suffix}"


def evaluate(args, model, checkpoint: dict, test_set, losses):
    """Log how likely the model finds the test images; returns the `Estimate`, or what `evaluate_completion` does.

    losses: say what -log p(x|z) is. Raises UserError for images that the model was not trained on.
    """
    info, expected = test_set.info, checkpoint["data"]
    if info["fingerprint"] != expected["fingerprint"]:
        found = f"{args.model} was trained on {expected['name']} {expected['fingerprint']}, here is {info['name']}"
        raise UserError(f"{found} {info['fingerprint']}: name the right folder with --data-root, or train it anew")
    model, test_set = model.to(args.device), test_set.to(args.device)
    log(f"Data: {len(test_set)} test images of {info['name']}, fingerprint {info['fingerprint']}")
    log(f"Model: {name_model(checkpoint)}")
    if args.given:
        return evaluate_completion(args, model, checkpoint, test_set, losses)
    pixels, is_grey = test_set.images[0].numel(), not checkpoint["settings"]["binarize"]
    constant = pixels * math.log(math.pi) / 2 if losses.recon == "mse" else 0.0  # of a Gaussian of variance 1/2

    def posterior(images, labels):
        return model.encoder(images, labels if model.has_label else None)

    def log_likelihood(zs, images, labels):
        repeated = labels.repeat(len(zs)) if model.has_label else None
        reconstructions = model.decode(zs.flatten(0, 1), repeated)
        return -losses.reconstruction(reconstructions.view(-1, *images.shape), images) - constant

    estimate = estimate_likelihood(test_set, posterior, log_likelihood, args.nll_samples, args.seed)
    for line in describe_estimate(estimate, args.nll_samples, pixels if losses.recon == "mse" and is_grey else None):
        log(line)
    if losses.recon == "bce" and is_grey:
        log(describe_grey(test_set[:][0]))
    if model.has_label:
        log("Labels: the likelihood is that of the images given their labels")
    return estimate
