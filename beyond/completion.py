"""What main.py does with models that complete digits: their conditional likelihood, and pictures of completions."""

import sys

import torch
from torch.nn.functional import avg_pool2d

from data import output_root
from evaluation.likelihood import check_finite, describe_estimate, describe_grey, describe_mean, estimate_likelihood
from evaluation.models import load_model, loss_unit, name_mnist_model, name_model, name_source, training_command
from generators.completion import QUADRANTS, given_pixels
from training import UserError
from training.figures import plot_losses, plot_samples
from training.script import log

FIRST, AMBIGUOUS, SEARCHED = 10, 10, 1000  # digits shown: the first ones, and those of so many that leave most open
ANSWERS, SPREAD_OF = 5, 100  # completions shown, and those whose standard deviation is
MISSING, OUTLINE = (0.4, 0.4, 0.45), (1.0, 0.6, 0.1)  # colours of what is to be predicted


def evaluate_completion(args, model, checkpoint: dict, test_set, losses):
    """Log how likely the model finds the missing part of the test images; returns (N,) nats, or the `Estimate`.

    Raises UserError where a likelihood is not finite.
    """
    if not model.is_dist:
        images = test_set[:][0]
        with torch.no_grad():
            nll = torch.cat([losses.reconstruction(model(batch), batch).cpu() for batch in images.split(1000)])
        check_finite(nll)
        log(f"Conditional NLL: {describe_mean(nll)} (one answer, {len(nll)} images)")
    else:
        nll = estimate_completion(args, model, test_set, losses)
    if not checkpoint["settings"]["binarize"]:
        log(describe_grey(test_set[:][0].cpu()[..., ~given_pixels(args.given)[0]]))
    return nll


def estimate_completion(args, model, test_set, losses):
    """Log both estimates of the CVAE; returns the first one."""

    def from_recognition(images, _):
        return *model.encoder(images), *model.prior(model.known(images))

    def from_prior(images, _):
        prior = model.prior(model.known(images))
        return *prior, *prior

    def log_likelihood(zs, images, _):
        return -losses.reconstruction(model.complete(images, zs), images)

    ways = {"importance sampling": from_recognition, "Monte Carlo from the prior network": from_prior}
    found = [
        estimate_likelihood(test_set, proposal, log_likelihood, args.nll_samples, args.seed)
        for proposal in ways.values()
    ]
    for way, estimate in zip(ways, found, strict=True):
        how = f"{way}, {args.nll_samples} samples, {len(estimate.nll)} images"
        log(f"Conditional NLL: {describe_mean(estimate.nll)} ({how})")
    log(describe_estimate(found[0], args.nll_samples)[1])
    return found[0]


def plot_completions(args, checkpoint: dict, loaders) -> None:
    """The losses of a trained model, and test digits completed by it and, where it is there, by the other."""
    unit, vis = loss_unit(checkpoint["model"], checkpoint["settings"]), args.output_root / "vis"
    title = f"{args.model}, given {QUADRANTS[args.given]}, on {checkpoint['data']['name']}"
    plot_losses(checkpoint["history"], vis / f"loss_{checkpoint['model']}.png", title, unit)
    test_set = loaders[-1].dataset.to("cpu")
    source, models = name_source(test_set.info, checkpoint), find_models(args, checkpoint)
    vis = output_root(args.output_root, test_set.info, checkpoint["data"]) / "vis"
    shown = f"the first {FIRST}, and {AMBIGUOUS} of {min(SEARCHED, len(test_set))} whose answers differ most"
    title = (
        f"Given {QUADRANTS[args.given]}; test images of {source}: {shown if 'CVAE' in models else 'the first ones'}\n"
    )
    title += "\n".join(name_model(checkpoint) for _, checkpoint in models.values())
    rows = complete_rows({name: model for name, (model, _) in models.items()}, test_set, args.given, args.seed)
    images, columns = torch.cat(list(rows.values())).numpy(), len(next(iter(rows.values())))
    plot_samples(images, vis / f"mnist_completion_{args.given}.png", title, columns, list(rows))


def find_models(args, checkpoint: dict) -> dict:
    """{"NN": (model, checkpoint), "CVAE": ...} of those that are there, trained on the same images."""
    found = {}
    for kind in ("NN", "CVAE"):
        name = name_mnist_model(kind, args.given)
        try:
            model, other = load_model(name, args.output_root)
            if digits_of(other) != digits_of(checkpoint):
                again = training_command(name, args.output_root)
                raise UserError(f"{name} was trained on other images; train it anew with `{again}`")
            found[kind] = model, other
        except UserError as error:
            print(f"note: the picture lacks {kind}: {error}; then --figures-only draws it anew", file=sys.stderr)
    return found


def digits_of(checkpoint: dict) -> tuple:
    """What tells whether two models were trained on the same images; the fingerprint is that of the grey ones."""
    data = checkpoint["data"]
    return data["name"], data["fingerprint"], checkpoint["settings"]["binarize"]


@torch.no_grad()
def complete_rows(models: dict, test_set, given: int, seed: int) -> dict[str, torch.Tensor]:
    """{label: images (N, 3, 28, 28)}, rows of the picture."""
    torch.manual_seed(seed)
    images = test_set[:SEARCHED][0]
    shown = torch.arange(min(FIRST + AMBIGUOUS, len(images)))
    if "CVAE" in models:
        answers = sample_completions(models["CVAE"], images, 10)
        differ = answers.var(dim=0).flatten(1).sum(dim=1).argsort(descending=True)
        shown = torch.cat([shown[:FIRST], differ[differ >= FIRST][:AMBIGUOUS]])
    originals = images[shown]
    rows = {"given": outline(originals, given), "original": originals}
    if "NN" in models:
        rows["network"] = models["NN"](originals)
    if "CVAE" in models:
        answers = sample_completions(models["CVAE"], originals, SPREAD_OF)
        rows |= {f"CVAE {number + 1}": answers[number] for number in range(ANSWERS)}
        rows["2 x standard deviation"] = (2 * answers.std(dim=0, correction=0)).clamp(max=1)
    return {label: row.expand(-1, 3, -1, -1) for label, row in rows.items()}


def sample_completions(model, images: torch.Tensor, count: int) -> torch.Tensor:
    """(count, N, 1, 28, 28) of images (N, 1, 28, 28), each with its own z from the prior network."""
    mu, sigma = model.prior(model.known(images))
    return model.complete(images, mu + sigma * torch.randn(count, *mu.shape))


def outline(images: torch.Tensor, given: int) -> torch.Tensor:
    """Images (N, 1, H, W) with the missing part grey, in a frame: (N, 3, H, W)."""
    missing = ~given_pixels(given)[0]
    inner = avg_pool2d(missing[None].float(), 3, stride=1, padding=1)[0] == 1  # whose neighbours are missing as well
    framed = images.expand(-1, 3, -1, -1).clone()
    framed[..., missing] = torch.tensor(MISSING)[:, None]
    framed[..., missing & ~inner] = torch.tensor(OUTLINE)[:, None]
    return framed
