"""Completing digits: predict the rest of a digit from one, two or three of its quadrants (Sohn, Lee & Yan 2015).

    python -m beyond.completion --model NN --given 2 > ./log/train_MNIST_NN_given2.txt      # one answer for each digit
    python -m beyond.completion --model CVAE --given 2 > ./log/train_MNIST_CVAE_given2.txt  # one for each z
    python -m beyond.completion --model CVAE --given 2 --evaluate                           # its likelihood

--given 1: the lower left quadrant, 2: the left half, 3: all but the lower right quadrant.
Writes models/BestModel_MNIST_<M>_given<N>.pth, models/LastModel_MNIST_<M>_given<N>.pth,
vis/loss_MNIST_<M>_given<N>.png and vis/mnist_completion_<N>.png.
"""

from functools import partial
from pathlib import Path

import torch

from beyond import likelihood
from common import UserError
from common.distributed import init_distributed, rank
from common.figures import plot_samples
from common.flags import MNIST_HELP, add_data_flags, add_device_flag, add_training_flags, make_parser, positive_int
from common.process import log, run_script, say, seed_everything
from data import create_mnist_dataloaders
from datasets.images import choose_output_root, data_line, shift
from generators.completion import QUADRANTS, given_pixels
from main import HIDDEN_SIZE, PATIENCE, Losses, train
from trained.loading import check_images, load_model, name_model, name_source
from trained.registry import MODELS

LATENT_SIZE = 50  # of the CVAE
SHIFT = 0.5  # share of the training digits that are moved by a pixel
FIRST = 10  # test digits in the picture
AMBIGUOUS = 10  # further ones, of the first SEARCHED those with the most ambiguous completions
SEARCHED = 1000
ANSWERS = 5  # completions of each digit in the picture
SPREAD_SAMPLES = 100  # completions whose standard deviation it shows
GREY = 0.4  # the missing part


def parse_args(argv=None):
    """The flags."""
    parser = make_parser(
        "Train what completes digits, or with --evaluate estimate its conditional likelihood.",
        module="beyond.completion",
    )
    text = "NN: the network with one answer; CVAE: one for each z"
    parser.add_argument("--model", choices=["NN", "CVAE"], required=True, help=text)
    parser.add_argument("--given", type=int, choices=list(QUADRANTS), required=True, help="number of known quadrants")
    parser.add_argument("--evaluate", action="store_true", help="estimate the likelihood, without training")
    text = "latent vectors per image for --evaluate"
    parser.add_argument("--samples", metavar="K", type=positive_int, default=100, help=text)
    add_training_flags(parser, epochs=12, batch_size=128, lr=4e-3)
    add_device_flag(parser)
    add_data_flags(parser, MNIST_HELP)
    args = parser.parse_args(argv)
    if args.evaluate and args.resume:
        parser.error("argument --resume: not together with --evaluate, which does not train")
    return args


class CompletionLosses(Losses):
    """The losses of both models, per image, of the missing pixels alone; quadrants: how many are known."""

    def __init__(self, quadrants: int):
        super().__init__("bce")
        self.quadrants = quadrants

    def reconstruction(self, completions: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
        """-log p of the missing pixels of images (B, 1, 28, 28): (B,). The known ones are set to 0, and cost 0."""
        missing = ~given_pixels(self.quadrants, xs.device)
        return super().reconstruction(completions * missing, xs * missing)

    def network(self, outputs: torch.Tensor, xs: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, the metrics for the log) of the NN, for what its `forward` returned."""
        loss = self.reconstruction(outputs, xs).mean()
        return loss, {"loss": loss.item()}

    def cvae(self, outputs: tuple, xs: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, the metrics for the log) of the CVAE; the KL is the one to the prior network."""
        completions, mu, sigma, prior_mu, prior_sigma = outputs
        recon = self.reconstruction(completions, xs).mean()
        kl = self.kl_div((mu, sigma), (prior_mu, prior_sigma)).mean()
        loss = recon + kl
        return loss, {"loss": loss.item(), "recon": recon.item(), "kl": kl.item()}


def evaluate(model, checkpoint: dict, test_set, quadrants: int, samples: int, seed: int) -> torch.Tensor:
    """Log how likely a trained model finds the missing part of the test images; returns the nats of each (N,).

    Raises UserError where the model was trained on other images.
    """
    check_images(test_set, checkpoint)
    likelihood.log_subject(test_set, checkpoint)
    losses = CompletionLosses(quadrants)
    images = test_set[:][0]
    if MODELS[checkpoint["model"]].variational:
        nll = evaluate_cvae(model, test_set, losses, samples, seed)
    else:
        with torch.no_grad():
            nll = likelihood.check_finite(losses.reconstruction(model(images), images).cpu())
        log(f"Conditional NLL: {likelihood.describe_mean(nll)} (one answer, {len(nll)} images)")
    log(likelihood.describe_grey(images.cpu()[..., ~given_pixels(quadrants)[0]]))
    return nll


def evaluate_cvae(model, test_set, losses: CompletionLosses, samples: int, seed: int) -> torch.Tensor:
    """Log how likely the CVAE finds the missing part of the test images, estimated with samples of the recognition
    network and with samples of the prior network; returns the nats of each by the former (N,)."""

    def from_recognition(images, _):
        return *model.encoder(images), *model.prior(model.known(images))

    def from_prior(images, _):
        prior = model.prior(model.known(images))
        return *prior, *prior

    def log_likelihood(zs, images, _):
        return likelihood.log_bernoulli(losses, model.complete(images, zs), images)

    best, plain = (
        likelihood.estimate_likelihood(test_set, proposal, log_likelihood, samples, seed)
        for proposal in (from_recognition, from_prior)
    )
    size = f"{samples} samples, {len(test_set)} images"
    log(f"Conditional NLL: {likelihood.describe_mean(best.nll)} (importance sampling, {size})")
    log(f"Conditional NLL: {likelihood.describe_mean(plain.nll)} (Monte Carlo from the prior network, {size})")
    log(likelihood.describe_estimate(best, samples)[1])
    return best.nll


def plot_completions(test_set, checkpoint: dict, quadrants: int, seed: int, root: Path) -> None:
    """Plot test digits with the completions of both models, where both are trained; checkpoint: of one of them."""
    models = find_models(checkpoint, quadrants, root)
    title = f"Completed from {QUADRANTS[quadrants]}: test images of {name_source(test_set.info, checkpoint)}"
    if "CVAE" in models:
        title += f", the first {FIRST} and the most ambiguous of {min(SEARCHED, len(test_set))}"
    for _, trained in models.values():
        title += f"\n{name_model(trained)}"
    rows = complete_rows({kind: model for kind, (model, _) in models.items()}, test_set, quadrants, seed)
    images = torch.cat(list(rows.values())).numpy()
    columns = len(rows["original"])
    plot_samples(images, root / "vis" / f"mnist_completion_{quadrants}.png", title, columns, list(rows))


def find_models(checkpoint: dict, quadrants: int, root: Path) -> dict:
    """{"NN": (model, checkpoint), "CVAE": ...} of those that are trained on the images of a checkpoint."""
    models = {}
    for kind in ("NN", "CVAE"):
        try:
            model, trained = load_model(f"MNIST_{kind}_given{quadrants}", root)
        except UserError as error:
            say(f"note: the picture lacks {kind}: {error}")
            continue
        if trained["data"]["fingerprint"] == checkpoint["data"]["fingerprint"]:
            models[kind] = (model, trained)
        else:
            say(f"note: the picture lacks {kind}: it was trained on other images")
    return models


@torch.no_grad()
def complete_rows(models: dict, test_set, quadrants: int, seed: int) -> dict[str, torch.Tensor]:
    """{label: images (N, 1, 28, 28)}, the rows of the picture; models: {"NN": model, "CVAE": model}, or one of them."""
    torch.manual_seed(seed)
    images = test_set[:SEARCHED][0]
    originals = images[: FIRST + AMBIGUOUS]
    if "CVAE" in models:
        spread = sample_completions(models["CVAE"], images, 10).var(dim=0).flatten(1).sum(dim=1)
        order = spread.argsort(descending=True)
        ambiguous = order[order >= FIRST][:AMBIGUOUS]
        originals = torch.cat([images[:FIRST], images[ambiguous]])
    missing = ~given_pixels(quadrants)
    rows = {"known": originals.masked_fill(missing, GREY), "original": originals}
    if "NN" in models:
        rows["network"] = models["NN"](originals)
    if "CVAE" in models:
        completions = sample_completions(models["CVAE"], originals, SPREAD_SAMPLES)
        for number in range(ANSWERS):
            rows[f"CVAE {number + 1}"] = completions[number]
        rows["2 x standard deviation"] = (2 * completions.std(dim=0, correction=0)).clamp(max=1)
    return rows


def sample_completions(model, images: torch.Tensor, count: int) -> torch.Tensor:
    """(count, N, 1, 28, 28) of images (N, 1, 28, 28), each with its own z from the prior network."""
    mu, sigma = model.prior(model.known(images))
    return model.complete(images, mu + sigma * torch.randn(count, *mu.shape))


def main(argv=None):
    """Train and plot; returns the history, or with --evaluate the nats of each test image (N,)."""
    args = parse_args(argv)
    device = init_distributed(args.device)
    name = f"MNIST_{args.model}_given{args.given}"
    if args.evaluate:
        model, checkpoint = load_model(name, args.output_root)
        _, test_set = likelihood.find_digits(checkpoint["data"], args.data, args.data_root)
        return evaluate(model.to(device), checkpoint, test_set.to(device), args.given, args.samples, args.seed)

    loaders = create_mnist_dataloaders(
        args.batch_size, args.data_root, args.data, transform=partial(shift, share=SHIFT)
    )
    info = loaders[0].dataset.info
    root = choose_output_root(args.output_root, info)
    log(data_line(*loaders))

    seed_everything(args.seed)
    sizes = {"hidden_size": HIDDEN_SIZE, "latent_size": LATENT_SIZE}
    config = {argument: sizes[argument] for argument in MODELS[name].config}
    settings = {"epochs": args.epochs, "patience": PATIENCE, "batch_size": args.batch_size, "lr": args.lr}
    losses = CompletionLosses(args.given)
    best = train(
        name,
        MODELS[name].build(**config),
        losses.cvae if args.model == "CVAE" else losses.network,
        loaders,
        root,
        device,
        config=config,
        settings={**settings, "shift": SHIFT},
        seed=args.seed,
        resume=args.resume,
    )
    if rank() == 0:
        plot_completions(loaders[2].dataset.to("cpu"), best, args.given, args.seed, root)
    return best["history"]


if __name__ == "__main__":
    run_script(main)
