"""The plots of the scripts beyond the coursework: where latent vectors lie, the nearest photographs, the scores."""

import numpy as np

from common.figures import join_rows, make_axes, pair_rows, save_figure

NEAREST_COLUMNS = 8  # images per row beside a histogram


def plot_samplers(points: dict[str, np.ndarray], rows: list[np.ndarray], labels: list[str], path, title: str) -> None:
    """Latent vectors, {name: their two principal components (N, 2)}, beside rows of decoded images (n, 3, H, W);
    labels: one for each row. The first of the points are those of photographs."""
    figure, (left, right) = make_axes(13, 4.5, columns=2)
    for number, (name, coordinates) in enumerate(points.items()):
        style = {"s": 14, "color": f"C{number}"} if number else {"s": 5, "color": "lightgrey"}
        left.scatter(*coordinates.T, **style, linewidths=0, label=name)
    left.set(xlabel="principal component 1", ylabel="principal component 2", title="latent vectors")
    figure.legend(loc="outside lower left", ncols=len(points), markerscale=2)
    draw_rows(right, rows, labels)
    right.set_title("the decoder's images of them")
    figure.suptitle(title)
    save_figure(figure, path, title)


def plot_nearest(
    samples: np.ndarray, photographs: np.ndarray, distances: dict[str, np.ndarray], path, title: str
) -> None:
    """Blocks of two rows, samples above the nearest training photographs, both (N, 3, H, W), beside histograms of
    distances to the nearest training photograph, {from what: (M,)}."""
    figure, (left, right) = make_axes(13, 4.5, columns=2)
    rows = pair_rows(samples, photographs, NEAREST_COLUMNS)
    draw_rows(left, rows, ["sample", "nearest"] * (len(rows) // 2))
    bins = np.histogram_bin_edges(np.concatenate(list(distances.values())), 30)
    for name, values in distances.items():
        right.hist(values, bins, density=True, alpha=0.5, label=name)
    right.set(xlabel="distance to the nearest training image (0: the same, √2: nothing in common)", ylabel="density")
    right.legend()
    figure.suptitle(title)
    save_figure(figure, path, title)


def plot_scores(
    accuracies: dict[str, list], thousands: dict, distances: dict[str, list], chance: tuple[float, float], path, title
) -> None:
    """Accuracies and kernel distances, {name: [(value, standard error) for each seed]}; thousands: {name: (accuracy,
    error)} of classifiers trained on thousands of images; chance: the range of the accuracies of photographs against
    photographs."""
    figure, (left, right) = make_axes(11, 1.5 + 0.45 * len(accuracies), columns=2)
    draw_errors(left, accuracies, "accuracy of the classifier (0.5: it cannot distinguish them)")
    draw_errors(right, distances, "kernel distance")
    left.axvspan(*chance, color="C2", alpha=0.25, label="photographs against photographs")
    values, errors = zip(*thousands.values(), strict=True)
    style = {"fmt": "D", "markersize": 5, "color": "C1", "label": "trained on thousands of images"}
    left.errorbar(values, range(len(values)), xerr=errors, **style)
    left.legend()
    right.set_yticklabels([])
    right.set_xscale("symlog", linthresh=0.1)
    values = [value for pairs in distances.values() for value, _ in pairs]
    right.set_xlim(min(-0.1, 2 * min(values)), max(0.1, 2 * max(values)))
    right.xaxis.set_major_formatter("{x:g}")
    figure.suptitle(title)
    save_figure(figure, path, title)


def draw_errors(axes, pairs: dict[str, list], label: str) -> None:
    """A row of dots with error bars for each name, {name: [(value, standard error), ...]}."""
    for row, results in enumerate(pairs.values()):
        values, errors = zip(*results, strict=True)
        places = row + 0.15 * (np.arange(len(values)) - (len(values) - 1) / 2)
        axes.errorbar(values, places, xerr=errors, fmt="o", markersize=4, color="C0", elinewidth=1)
    axes.set(xlabel=label)
    axes.set_yticks(range(len(pairs)), list(pairs))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)


def draw_rows(axes, rows: list[np.ndarray], labels: list[str]) -> None:
    """Rows of images (n, C, H, W), each with its label."""
    height = rows[0].shape[2]
    axes.imshow(join_rows(rows), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks([(height + 1) * (row + 0.5) - 0.5 for row in range(len(rows))], labels)
    axes.set_xticks([])
    axes.set_frame_on(False)
    axes.tick_params(length=0)
