"""What the measures of beyond/measures.py detect of photographs that are wrong in a known way.

    python -m benchmarks.score_calibration      # five minutes; needs ./flowers and the trained Classifier

Training photographs are damaged and scored against held-out ones, as samples of a model are. Prints two tables: the
accuracy of the classifier that distinguishes them, the kernel distance in its standard errors, the same with the
features of the Classifier of species, and the p-value of the species; then copies of photographs, half of them
mirrored, as they are, moved or cropped, and how surely the two tests find them.
"""

import torch
from torch.nn import functional as F

from beyond.measures import (
    ImageFeatures,
    count_copies,
    kernel_distance,
    species_p,
    tail_share,
    two_sample_accuracy,
    view_distances,
)
from beyond.score import read_species
from common import PROJECT
from data import create_flower_dataloaders
from trained.loading import load_model

REPEATED = 52  # photographs, ten times each
COPIES = (0.0, 0.05, 0.1)  # shares of copies
CHANGED = 0.09  # share of copies that are moved or cropped
DRAWS = 5  # of each


def shuffle_tiles(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images (N, C, H, W) whose tiles are in random order, another one for each; side: of a tile in pixels."""
    tiles = F.unfold(images, side, stride=side)  # (N, C * side * side, tiles)
    order = torch.rand(len(images), 1, tiles.shape[2]).argsort(dim=2)
    return F.fold(tiles.gather(2, order.expand_as(tiles)), images.shape[2:], side, stride=side)


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Images convolved with a Gaussian of that standard deviation in pixels."""
    line = torch.exp(-torch.arange(-4, 5.0).square() / (2 * sigma**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    return F.conv2d(F.pad(images, (4, 4, 4, 4), "reflect"), kernel.expand(3, 1, 9, 9), groups=3)


def add_grid(images: torch.Tensor, damping: float) -> torch.Tensor:
    """Images (N, C, H, W) whose differences inside blocks of two by two pixels are smaller by that share."""
    means = F.avg_pool2d(images, 2).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return images - damping * (images - means)


def move(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """Images (N, C, H, W) moved to the right and down, their edges repeated."""
    return F.pad(images, (pixels, 0, pixels, 0), mode="replicate")[:, :, :-pixels, :-pixels]


def crop(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """Images (N, C, H, W) without so many pixels at each edge, enlarged to their old size."""
    inner = images[:, :, pixels:-pixels, pixels:-pixels]
    return F.interpolate(inner, images.shape[2:], mode="bilinear", antialias=True)


def damage(training: torch.Tensor, species: torch.Tensor, count: int) -> dict[str, torch.Tensor]:
    """{what is wrong: images (count, 3, H, W)}."""
    base = training[:count]
    faults = {"nothing": base, "nothing, others": training[count : 2 * count]}
    faults |= {f"shuffled in tiles of {side}": shuffle_tiles(base, side) for side in (12, 8, 6, 4)}
    faults |= {f"blurred by {sigma} pixels": blur(base, sigma) for sigma in (0.5, 1.0)}
    faults |= {f"noise of {sigma}": (base + sigma * torch.randn_like(base)).clamp(0, 1) for sigma in (0.02, 0.05)}
    faults |= {f"a grid of two pixels, {damping:.0%}": add_grid(base, damping) for damping in (0.1, 0.2)}
    faults[f"{REPEATED}, ten times each"] = base[:REPEATED].repeat(10, 1, 1, 1)[:count]
    faults["one species missing"] = training[species != 0][:count]
    faults["red and green swapped"] = base[:, [1, 0, 2]]
    return faults


@torch.no_grad()
def score_faults(training: torch.Tensor, species: torch.Tensor, held_out: torch.Tensor, classifier) -> None:
    """Print the table of damaged photographs."""
    features = ImageFeatures(training)
    held_out_features = features(held_out)
    held_out_species = read_species(classifier, held_out)
    print("| photographs with | accuracy | kernel distance | with the Classifier's features | species p |")
    print("|---|---|---|---|---|")
    for fault, images in damage(training, species, len(held_out)).items():
        accuracy, error = two_sample_accuracy(features(images), held_out_features)
        distance, distance_error = kernel_distance(features(images), held_out_features)
        other, other_error = kernel_distance(classifier.features(images), classifier.features(held_out))
        p = species_p(read_species(classifier, images), held_out_species)
        in_errors = f"{distance / distance_error:.1f} | {other / other_error:.1f}"
        print(f"| {fault} | {accuracy:.1%} ± {error:.1%} | {in_errors} | {p:.2g} |", flush=True)


def score_copies(training: torch.Tensor, held_out: torch.Tensor) -> None:
    """Print the table of copies: training photographs, some of which are copies of others, every other one mirrored."""
    kinds = {f"{share:.0%}": (share, lambda copies: copies) for share in COPIES}
    kinds[f"{CHANGED:.0%}, moved by two pixels"] = (CHANGED, lambda copies: move(copies, 2))
    kinds[f"{CHANGED:.0%}, cropped by three pixels"] = (CHANGED, lambda copies: crop(copies, 3))
    print("\n| copies | nearer than the nearest 1 % | p | much nearer: training : held-out | p |")
    print("|---|---|---|---|---|")
    for kind, (share, change) in kinds.items():
        for _ in range(DRAWS):
            first, *rest = torch.randperm(len(training)).split(len(held_out))
            images = training[first]
            others = training[torch.cat(rest)]
            count = round(share * len(images))
            images[:count] = change(others[torch.randperm(len(others))[:count]])
            images[:count:2] = images[:count:2].flip(-1)
            distances = view_distances(images, torch.cat([others, held_out]))
            held_out_distances = view_distances(held_out, others).amin(dim=1)
            near, p = tail_share(distances[:, : len(others)].amin(dim=1), held_out_distances)
            of_training, of_held_out, p_copies = count_copies(distances, len(others))
            print(f"| {kind} | {near:.1%} | {p:.2g} | {of_training} : {of_held_out} | {p_copies:.2g} |", flush=True)


def main():
    """Print both tables."""
    torch.manual_seed(0)
    train_loader, valid_loader = create_flower_dataloaders(16, data="real")
    training, species = train_loader.dataset[:]
    held_out, _ = valid_loader.dataset[:]
    order = torch.randperm(len(training))
    classifier, _ = load_model("Classifier", PROJECT)
    score_faults(training[order], species[order], held_out, classifier)
    score_copies(training[order], held_out)


if __name__ == "__main__":
    main()
