"""What the page holds besides its text: the models' weights, test digits and photographs, and facts about both.

    bundles, facts = collect(output_root, mnist=None, flowers=None)

A bundle is a dict of tensors, which `playground.weights.pack` makes text of; facts are plain values.
"""

import hashlib
import subprocess
from pathlib import Path

import torch
from torch.nn.functional import mse_loss

from beyond.likelihood import find_digits
from beyond.priors import fit_mixture, sample_posterior
from common import PROJECT
from common.checkpoints import one_line
from main import Losses
from playground.weights import dequantise
from trained.loading import load_model, load_photographs
from trained.registry import MODELS, checkpoint_file
from trained.sampling import encode, project

DIGITS = ("MNIST_AE", "MNIST_VAE", "MNIST_CVAE")
NAMES = (*DIGITS, "AE", "VAE", "GAN", "DDPM")
UNUSED = ("critic", "standardised", "log_var")  # of the GAN and of the flowers' VAE: the page does not compute them
BETAS = "BestModel_betas.pth"
POINTS = 2000  # test digits on a plane, and of which the errors are means
SHOWN = 3  # test digits of each class to choose from
PHOTOGRAPHS = 12


def collect(output_root: Path, mnist: Path | None, flowers: Path | None) -> tuple[dict, dict]:
    """(bundles, facts); mnist and flowers: other folders than ./mnist and ./flowers. Raises UserError where a model or
    its images are missing."""
    models = {name: load_model(name, output_root) for name in NAMES}
    made_from = {name: describe_model(name, *models[name], output_root) for name in NAMES}
    betas = find_betas(output_root)
    with one_line(f"{betas} does not hold the small VAEs", "; make it again with `python -m benchmarks.betas`"):
        small = torch.load(betas, weights_only=True)["small"]
    made_from["betas"] = {"seed": 0, "fingerprint": fingerprint_file(betas), "is_own": is_own(betas)}
    for model, _ in models.values():
        model.load_state_dict(dequantise(model.state_dict()))
    bundles = {name: weights_of(model) for name, (model, _) in models.items()}
    facts = {"made_from": made_from, "small": [describe_small(vae) for vae in small]}
    bundles["betas"] = small_weights(small)
    test_set = find_digits(models["MNIST_VAE"][1]["data"], data_root=mnist)[1]
    images, labels = test_set[:POINTS]
    chosen = torch.cat([(labels == label).nonzero()[:SHOWN, 0] for label in range(10)])
    bundles["digits"] = {
        "images": test_set.images[chosen].flatten(1),
        "labels": labels[chosen].byte(),
        "small": test_set.images[small[0]["shown"]].flatten(1),
        "point labels": labels.byte(),
    }
    for name in DIGITS:
        bundles["digits"] |= plane_of(name, models[name][0], images, labels)
        facts[name] = measure(name, models[name][0], images, labels)
    training, held_out = load_photographs(models["VAE"][1], data_root=flowers)
    facts["image_size"] = {name: models[name][1]["data"]["image_size"] for name in NAMES}
    facts["species"] = models["DDPM"][1]["data"]["classes"]
    bundles["photographs"] = choose_photographs(held_out)
    images = training[:][0]
    bundles["mixtures"] = mixture_of("AE", encode(models["AE"][0], images))
    bundles["mixtures"] |= mixture_of("VAE", sample_posterior(models["VAE"][0], images, seed=0))
    return bundles, facts


def describe_model(name: str, model, checkpoint: dict, output_root: Path) -> dict:
    """What the page says of where a model is from."""
    loss = checkpoint["valid_loss"]
    return {
        "seed": checkpoint["seed"],
        "epoch": checkpoint["epoch"],
        "loss": f"{loss:.4g}",
        "data": checkpoint["data"]["name"],
        "dims": checkpoint["config"].get("latent_size") or checkpoint["config"].get("encoding_dim"),
        "fingerprint": fingerprint(model),
        "is_own": is_own(output_root / "models" / checkpoint_file(name)),
    }


def is_own(path: Path) -> bool | None:
    """Whether a checkpoint is another than the repository's; None where git is not there to tell."""
    if PROJECT not in path.resolve().parents:
        return True
    try:
        status = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", path], cwd=PROJECT, capture_output=True)
    except FileNotFoundError:
        return None
    return {0: False, 1: True}.get(status.returncode)


def fingerprint(model) -> str:
    """A hash of a model's weights, bit for bit."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weights.shape)}".encode() + weights.numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint_file(path: Path) -> str:
    """A hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def weights_of(model) -> dict[str, torch.Tensor]:
    """The weights that the page computes with."""
    return {name: weight for name, weight in model.state_dict().items() if not name.startswith(UNUSED)}


# ---------------------------------------------------------------- digits


def measure(name: str, model, images: torch.Tensor, labels: torch.Tensor) -> dict:
    """A digits' model over test digits: its squared error, the largest numbers of its codes, and the bound's parts."""
    condition = MODELS[name].condition(labels)
    with torch.no_grad():
        codes = model.encode(images, *condition)
        error = mse_loss(model.decode(codes, *condition), images).item()
        measured = {"error": error, "range": codes.abs().quantile(0.999).item()}
        if MODELS[name].variational:
            torch.manual_seed(0)
            outputs = model(images, *condition)
            mu, sigma = outputs[1:]
            kl_of_latents = (0.5 * (mu.square() + sigma.square() - 1) - sigma.log()).mean(dim=0)
            measured["recon"] = Losses().reconstruction(outputs[0], images).mean().item()
            measured["kl_of_latents"] = kl_of_latents.tolist()
    return measured


def plane_of(name: str, model, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The plane of the first two principal components: where test digits lie in it, and how it lies in the latent
    space: z = mean + x * first axis + y * second axis."""
    codes = encode(model, images, *MODELS[name].condition(labels))
    points = project(codes)
    centred = codes.double() - codes.double().mean(dim=0)
    axes = torch.linalg.lstsq(points.double(), centred).solution  # (2, D)
    return {
        f"{name} points": points.flatten(),
        f"{name} mean": codes.mean(dim=0),
        f"{name} axes": axes.float().flatten(),
    }


def find_betas(output_root: Path) -> Path:
    """The file of `python -m benchmarks.betas`; the repository's where the output root has none."""
    path = output_root / "models" / BETAS
    return path if path.exists() else PROJECT / "models" / BETAS


def describe_small(vae: dict) -> dict:
    """The facts about one of them."""
    names = ("beta", "latents", "epoch", "seed", "recon")
    return {name: vae[name] for name in names} | {"kl_of_latents": vae["kl_of_latents"].tolist()}


def small_weights(small: list[dict]) -> dict[str, torch.Tensor]:
    """The weights of all of them, "0.decoder..." and so on, with mu and sigma of the digits that they reconstruct."""
    weights = {}
    for number, vae in enumerate(small):
        for name, (rows, *scales) in vae["decoder"].items():
            weight = rows * scales[0].view(-1, 1) if scales else rows
            weights[f"{number}.decoder.{name}"] = weight
        weights[f"{number}.mu"] = vae["mu"].flatten()
        weights[f"{number}.sigma"] = vae["sigma"].flatten()
    return weights


# ---------------------------------------------------------------- flowers


def choose_photographs(held_out) -> dict[str, torch.Tensor]:
    """Some of the held-out photographs, as many of each species."""
    count = len(held_out.labels.unique())
    chosen = [(held_out.labels == label).nonzero()[: PHOTOGRAPHS // count, 0] for label in range(count)]
    return {"images": held_out.images[torch.cat(chosen)].flatten(1)}


def mixture_of(name: str, codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """The mixture of Gaussians that `python -m beyond.priors` fits to the codes of training photographs (N, D)."""
    mixture = fit_mixture(codes)
    components = mixture.component_distribution
    return {
        f"{name} weights": mixture.mixture_distribution.probs.float(),
        f"{name} means": components.loc.float().flatten(),
        f"{name} factors": components.scale_tril.float().flatten(0, 1),  # (components * D, D), lower triangles
    }
