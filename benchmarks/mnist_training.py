"""The VAE on MNIST from a cold start to 105.6 nats on digits held out: our script against the usual example.

    python benchmarks/mnist_training.py --turns 3          # about 6 minutes

The usual example, as tutorials have it: one hidden layer of 400, 20 latents, a DataLoader that turns every image into a
tensor in every epoch (ToTensor, batch 128), Adam at 1e-3. Each run is a process of its own, in turns; its time runs
from the command to the line that shows the loss: ours on the validation digits, the example's on the test digits.
"""

import argparse
import sys
import tempfile

import common
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy, relu
from torch.utils.data import DataLoader

from datasets.mnist import import_torchvision
from training import PROJECT
from training.flags import positive_int
from training.script import seed_everything

TARGET = 105.6  # about what the usual example comes to in 10 epochs
OUR_EPOCHS = 3


def usual_example(most_epochs: int = 20):
    """Train until the test loss is below the target; prints it after each epoch."""
    torchvision = import_torchvision()
    from torchvision.transforms import ToTensor

    class UsualVAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.mu, self.log_var = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
            self.from_latent, self.pixels = nn.Linear(20, 400), nn.Linear(400, 784)

        def forward(self, images):
            hidden = relu(self.hidden(images.view(-1, 784)))
            mu, log_var = self.mu(hidden), self.log_var(hidden)
            z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
            return torch.sigmoid(self.pixels(relu(self.from_latent(z)))), mu, log_var

    def loss_of(images):
        reconstructions, mu, log_var = model(images)
        cross_entropy = binary_cross_entropy(reconstructions, images.view(-1, 784), reduction="sum")
        return cross_entropy - 0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())

    seed_everything(0)
    train_set, test_set = (
        torchvision.datasets.MNIST(PROJECT / "mnist", train=train, transform=ToTensor()) for train in (True, False)
    )
    train_loader = DataLoader(train_set, batch_size=128, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=128)
    model = UsualVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1, most_epochs + 1):
        for images, _ in train_loader:
            optimizer.zero_grad()
            loss_of(images).backward()
            optimizer.step()
        with torch.no_grad():
            loss = sum(loss_of(images).item() for images, _ in test_loader) / len(test_set)
        print(f"Epoch: {epoch}, Valid Loss: {loss:.6f}", flush=True)
        if loss <= TARGET:
            break


def main(argv=None):
    """Write a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=positive_int, default=3)
    parser.add_argument("--usual", action="store_true", help="only train the usual example, in this process")
    args = parser.parse_args(argv)
    if args.usual:
        usual_example()
        return
    with tempfile.TemporaryDirectory() as folder:
        ours = [sys.executable, PROJECT / "main.py", "--model", "VAE", "--data", "real"]
        ours += ["--output-root", folder]
        ways = {
            f"main.py --epochs {OUR_EPOCHS}": [*ours, "--epochs", OUR_EPOCHS],
            "main.py, 10 epochs": ours,
            "usual example": [sys.executable, __file__, "--usual"],
        }
        common.compare_runs("MNIST, VAE to 105.6 nats", TARGET, ways, args.turns)


if __name__ == "__main__":
    main()
