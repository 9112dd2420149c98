"""The best linear code of MNIST: the test error of its principal components, which an autoencoder has to beat.

    python benchmarks/mnist_pca.py --components 2 20

The error is the mean squared error of a pixel over the test images; the components are those of the training images.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mlp_initialisation import principal_component_error

from data import create_mnist_dataloaders
from training.flags import natural_int


def main(argv=None):
    """Print the mean squared error of a pixel for each number of components."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--components", type=natural_int, nargs="+", default=[0, 2, 20])
    args = parser.parse_args(argv)
    loaders = create_mnist_dataloaders(128, data="real")
    train, _, test = (loader.dataset.images.flatten(1).numpy() / 255 for loader in loaders)
    for components in args.components:
        print(f"{components} components: {principal_component_error(train, test, components):.6f}")


if __name__ == "__main__":
    main()
