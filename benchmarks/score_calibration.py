"""What the measures of evaluation/measures.py see of photographs that are wrong in a known way.

    python benchmarks/score_calibration.py      # three minutes; needs ./flowers and the trained Classifier

Photographs that were trained on are damaged and scored against held-out ones, as samples of a model are. Prints two
tables: the accuracy with which they are told from photographs, the kernel distance in its standard errors, the same
with the classifier's features, density and coverage (Naeem et al. 2020), and the p-value of the species; then copies
of photographs, half of them mirrored, and how surely the two tests find them.
"""

import common  # noqa: F401  (the path of the scripts)
import torch
from torch.nn import functional as F

from data import create_flower_dataloaders
from evaluation.measures import (
    PatchFeatures,
    both_ways,
    kernel_distance,
    nearest,
    species_p,
    standardise,
    tail_share,
    three_sample,
    two_sample_accuracy,
)
from evaluation.models import load_model
from evaluation.score import read_species
from training import PROJECT

NEIGHBOURS = 5  # of density and coverage
REPEATED = 52  # photographs, ten times each
COPIES, DRAWS = (0.0, 0.05, 0.1, 0.15), 5  # shares of copies, and how often each is drawn


def shuffle_tiles(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images (N, C, H, W) whose tiles of so many pixels a side are in random order, another one for each."""
    tiles = F.unfold(images, side, stride=side)  # (N, C side side, tiles)
    order = torch.rand(len(images), 1, tiles.shape[2]).argsort(dim=2)
    return F.fold(tiles.gather(2, order.expand_as(tiles)), images.shape[2:], side, stride=side)


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Images convolved with a Gaussian of that standard deviation in pixels."""
    line = torch.exp(-torch.arange(-4, 5.0).square() / (2 * sigma**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    return F.conv2d(F.pad(images, (4, 4, 4, 4), "reflect"), kernel.expand(3, 1, 9, 9), groups=3)


def damage(training: torch.Tensor, species: torch.Tensor, count: int) -> dict[str, torch.Tensor]:
    """{what is wrong: so many images}."""
    base = training[:count]
    faults = {"nothing": base, "nothing, others": training[count : 2 * count]}
    faults |= {f"shuffled in tiles of {side}": shuffle_tiles(base, side) for side in (12, 8, 6, 4)}
    faults |= {f"blurred by {sigma} pixels": blur(base, sigma) for sigma in (0.5, 1.0)}
    faults |= {f"noise of {sigma}": (base + sigma * torch.randn_like(base)).clamp(0, 1) for sigma in (0.02, 0.05)}
    faults[f"{REPEATED}, ten times each"] = base[:REPEATED].repeat(10, 1, 1, 1)[:count]
    faults["one species missing"] = training[species != 0][:count]
    faults["red and green swapped"] = base[:, [1, 0, 2]]
    return faults


def density_and_coverage(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Of samples x (M, D) and photographs y (N, D): how many samples lie in the balls that reach from each photograph
    to its fifth neighbour, over what is expected; and the share of these balls that hold any."""
    radii = torch.cdist(y, y).kthvalue(NEIGHBOURS + 1, dim=1).values
    inside = torch.cdist(x, y) < radii
    return (inside.sum() / (NEIGHBOURS * len(x))).item(), inside.any(dim=0).float().mean().item()


def main():
    """Print both tables."""
    torch.manual_seed(0)
    (training, species), (held_out, _) = (loader.dataset[:] for loader in create_flower_dataloaders(16, data="real"))
    order = torch.randperm(len(training))
    training, species = training[order], species[order]
    classifier, features = load_model("Classifier", PROJECT)[0], PatchFeatures(training)
    expected, usual = features(held_out), read_species(classifier, held_out)

    def of_classifier(images):
        with torch.no_grad():
            return classifier.features(images)

    print("| photographs with | told from others | kernel distance | classifier's | density | coverage | species p |")
    print("|---|---|---|---|---|---|---|")
    for fault, images in damage(training, species, len(held_out)).items():
        found = features(images)
        accuracy, error = two_sample_accuracy(found, expected)
        distances = kernel_distance(found, expected), kernel_distance(of_classifier(images), of_classifier(held_out))
        in_errors = " | ".join(f"{distance / error:.1f}" for distance, error in distances)
        density, coverage = density_and_coverage(found, expected)
        p = species_p(read_species(classifier, images), usual, classifier.species.out_features)
        print(f"| {fault} | {accuracy:.1%} ± {error:.1%} | {in_errors} | {density:.2f} | {coverage:.2f} | {p:.2g} |")

    plant_copies(training, held_out)


def plant_copies(training: torch.Tensor, held_out: torch.Tensor) -> None:
    """Print the table of copies: training photographs, some of which are copies of others, every other one mirrored."""
    print("\n| copies | nearer than the nearest 1 % | p | much nearer: training : held-out | p |")
    print("|---|---|---|---|---|")
    unseen = both_ways(held_out)
    for share in COPIES:
        for _ in range(DRAWS):
            order = torch.randperm(len(training)).split(len(held_out))
            images, others = training[order[0]], training[torch.cat(order[1:])]
            copies = round(share * len(images))
            images[:copies] = others[torch.randperm(len(others))[:copies]]
            images[:copies:2] = images[:copies:2].flip(-1)
            samples, known = standardise(images), both_ways(others)
            near = known.flatten(0, 1)
            tail, p = tail_share(nearest(samples, near)[0], nearest(unseen[0], near)[0])
            of_training, of_held_out, p_three = three_sample(samples, known, unseen)
            print(f"| {share:.0%} | {tail:.1%} | {p:.2g} | {of_training} : {of_held_out} | {p_three:.2g} |")


if __name__ == "__main__":
    main()
