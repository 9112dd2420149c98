"""MNIST: the losses, the training and the pictures of AE, VAE and CVAE.

    python main.py --model VAE > ./log/train_MNIST_VAE.txt              # also: AE, CVAE
    python main.py --model VAE --resume                                 # continues after a stop
    python main.py --model VAE --latent-size 2 --output-root plane      # other hyper-parameters, in another folder

Writes models/BestModel_MNIST_<M>.pth, models/LastModel_MNIST_<M>.pth, vis/loss_MNIST_<M>.png and vis/mnist_<M>_*.png.
"""

from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy, mse_loss
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from common import UserError
from common.distributed import data_parallel, init_distributed, rank
from common.figures import plot_latent_space, plot_reconstructions, plot_samples
from common.flags import (
    MNIST_HELP,
    add_data_flags,
    add_device_flag,
    add_training_flags,
    make_parser,
    positive_float,
    positive_int,
)
from common.process import log, run_script, seed_everything
from common.run import Run, start_run
from data import create_mnist_dataloaders
from datasets.images import choose_output_root, data_line
from model import BLOCKS, CLASSES, build_model
from trained.loading import load_model, name_model, name_source, plot_loss_curves, three_digits
from trained.registry import MODELS
from trained.sampling import add_endpoints, decode, encode, interpolate, normal_latents, project

HIDDEN_SIZE = 512  # width of the hidden layers
ADAM_BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.01
PATIENCE = 10  # epochs without a lower validation loss, after which the training stops
BETAS = {"AE": None, "VAE": 1.0, "CVAE": 1.6}  # weights of the KL; with a larger one more of the samples are digits
EXAMPLES = 20  # digits to reconstruct
SAMPLES = 100  # random digits
STEPS = 10  # digits of an interpolation


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Train AE, VAE or CVAE on MNIST.", {name: {"beta": BETAS[name]} for name in ("VAE", "CVAE")})
    parser.add_argument("--model", choices=BETAS, required=True, help="which one to train")
    parser.add_argument("--latent-size", metavar="N", type=positive_int, default=20, help="length of the latent vector")
    parser.add_argument("--beta", metavar="X", type=positive_float, help="weight of the KL in the loss")
    add_training_flags(parser, epochs=10, batch_size=128, lr=4e-3)
    add_device_flag(parser)
    add_data_flags(parser, MNIST_HELP)
    args = parser.parse_args(argv)
    if args.model == "AE" and args.beta:
        parser.error("argument --beta: the loss of the AE has no KL")
    if args.beta is None:
        args.beta = BETAS[args.model]
    return args


# 作业 main.py 合计 45/100: 损失函数的实现
class Losses:
    """The losses of the three autoencoders, per image: reconstruction + beta KL(q(z|x) || N(0, I)).

    That is the negative evidence lower bound (Kingma & Welling 2014, equation 3) for beta 1; another beta weights the
    KL (Higgins et al. 2017). recon is -log p(x|z): "bce", the cross-entropy of a Bernoulli distribution for each pixel,
    in nats; or "mse", squared errors, which are those of a Gaussian of variance 1/2, up to a constant.
    """

    def __init__(self, recon: str = "bce", beta: float = 1.0):
        self.recon = recon
        self.beta = beta

    def reconstruction(self, reconstructions: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
        """-log p(x|z) of images (B, ...), summed over the pixels: (B,). Raises UserError for values outside [0, 1]."""
        low, high = (bound.item() for bound in xs.aminmax())
        if not 0 <= low <= high <= 1:
            raise UserError(f"expected images with values from 0 to 1, found {low:g} to {high:g}")
        if not reconstructions.isfinite().all():  # return it: run.record stops and names the epoch and the batch
            return reconstructions.flatten(1).sum(dim=1)
        error_function = binary_cross_entropy if self.recon == "bce" else mse_loss
        return error_function(reconstructions, xs, reduction="none").flatten(1).sum(dim=1)

    # 作业 5/100: kl_div
    def kl_div(self, p, q):
        """KL(p || q) of two diagonal Gaussians, each (mean, standard deviation) of shape (B, D), in nats: (B,).

        sum over d of  log(sigma_q / sigma_p) + (sigma_p^2 + (mu_p - mu_q)^2) / (2 sigma_q^2) - 1/2
        """
        mu_p, sigma_p = p
        mu_q, sigma_q = q
        ratio = sigma_p / sigma_q
        kl = 0.5 * (ratio.square() + ((mu_p - mu_q) / sigma_q).square() - 1) - ratio.log()
        return kl.sum(dim=1)

    def ae(self, outputs: torch.Tensor, xs: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, the metrics for the log) of the AE, for what its `forward` returned. The log's loss is
        a mean over the pixels, like the flowers'."""
        loss = self.reconstruction(outputs, xs).mean()
        return loss, {"loss": loss.item() / xs[0].numel()}

    def vae(self, outputs: tuple, xs: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, the metrics for the log) of the VAE and the CVAE, for what `forward` returned."""
        reconstructions, mu, sigma = outputs
        prior = (torch.zeros_like(mu), torch.ones_like(sigma))
        recon = self.reconstruction(reconstructions, xs).mean()
        kl = self.kl_div((mu, sigma), prior).mean()
        loss = recon + self.beta * kl
        return loss, {"loss": loss.item(), "recon": recon.item(), "kl": kl.item()}


def choose_loss(name: str, beta: float | None):
    """The loss function of the "AE", the "VAE" or the "CVAE": (outputs, images) -> (loss, metrics)."""
    return Losses("mse").ae if name == "AE" else Losses("bce", beta).vae


def train(
    name: str,
    model,
    loss_function,
    loaders,
    root: Path,
    device: torch.device,
    *,
    config: dict,
    settings: dict,
    seed: int,
    resume: bool,
    run_class: type[Run] = Run,
) -> dict:
    """Train a model of MNIST, test its best weights and plot its losses; returns the best checkpoint.

    name: in the registry; loss_function(outputs, images) -> (the loss to minimise, the metrics for the log); loaders:
    to train, to validate and to test on; config: the model's arguments; settings: epochs, lr, and what the checkpoint
    records besides.
    """
    train_loader, valid_loader, test_loader = loaders
    entry = MODELS[name]
    log(f"Model: {name}, {BLOCKS + 1} hidden layers each way, {sum(map(torch.numel, model.parameters())):,} parameters")
    model.to(device)
    for loader in loaders:
        loader.dataset.to(device)
    optimizer = AdamW(model.parameters(), settings["lr"], ADAM_BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    # one cycle: the learning rate rises for 30 % of the steps, then falls to nearly 0
    steps = settings["epochs"] * len(train_loader)
    scheduler = OneCycleLR(optimizer, settings["lr"], steps, anneal_strategy="linear", cycle_momentum=False)
    parallel = data_parallel(model)  # under torchrun it averages the processes' gradients

    parts = {"state_dict": model, "optimizer": optimizer, "scheduler": scheduler}
    info = train_loader.dataset.info
    with start_run(
        name, root, parts, config=config, data=info, settings=settings, seed=seed, resume=resume, run_class=run_class
    ) as run:
        # 作业 main.py 合计 45/100: train 过程的实现
        for epoch in run.epochs():
            if run.epochs_since_best >= PATIENCE:  # early stopping
                break

            parallel.train()
            for xs, ys in run.batches("train", train_loader):
                outputs = parallel(xs, *entry.condition(ys))  # the CVAE gets the labels as well
                loss, metrics = loss_function(outputs, xs)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                run.record(metrics)

            model.eval()
            with torch.no_grad():
                for xs, ys in run.batches("valid", valid_loader):
                    outputs = model(xs, *entry.condition(ys))
                    loss, metrics = loss_function(outputs, xs)
                    run.record(metrics)

            if run.valid_loss < run.best_loss:
                run.save_best()  # models/BestModel_MNIST_<M>.pth
            run.end_epoch()  # the epoch's line of the log, and models/LastModel_MNIST_<M>.pth

        run.load_best()
        model.eval()
        with torch.no_grad():  # the test decides nothing: it comes once, after the training
            for xs, ys in run.batches("test", test_loader):
                outputs = model(xs, *entry.condition(ys))
                loss, metrics = loss_function(outputs, xs)
                run.record(metrics)
        best = run.finish()
    if rank() == 0:
        plot_loss_curves(best, root)
    return best


def main(argv=None, run_class: type[Run] = Run):
    """Train and plot; returns the losses of each epoch. run_class: a subclass of Run, as beyond/film.py has one."""
    args = parse_args(argv)
    device = init_distributed(args.device)
    loaders = create_mnist_dataloaders(args.batch_size, args.data_root, args.data)
    info = loaders[0].dataset.info
    root = choose_output_root(args.output_root, info)
    log(data_line(*loaders))

    seed_everything(args.seed)
    config = {"hidden_size": HIDDEN_SIZE, "latent_size": args.latent_size}
    model = build_model(args.model, **config)
    settings = {"epochs": args.epochs, "patience": PATIENCE, "batch_size": args.batch_size, "lr": args.lr}
    if args.beta:
        settings["beta"] = args.beta
    name = f"MNIST_{args.model}"
    best = train(
        name,
        model,
        choose_loss(args.model, args.beta),
        loaders,
        root,
        device,
        config=config,
        settings=settings,
        seed=args.seed,
        resume=args.resume,
        run_class=run_class,
    )
    if rank() == 0:
        model, checkpoint = load_model(name, root)
        plot_pictures(model, checkpoint, loaders[2].dataset.to("cpu"), root, args.seed)
    return best["history"]


# 作业 main.py 合计 45/100: 三种自编码器在 MNIST 上的结果
def plot_pictures(model, checkpoint: dict, test_set, root: Path, seed: int) -> None:
    """Plot what a trained model does with test digits and with random latent vectors, below a root."""
    plot_test_digits(model, checkpoint, test_set, root)
    path = picture_path(root, checkpoint, "samples")
    plot_random_digits(model, checkpoint, random_latents(checkpoint, seed), path, f"z from N(0, 1), seed {seed}")


def plot_test_digits(model, checkpoint: dict, test_set, root: Path) -> None:
    """Test digits above their reconstructions, their latent vectors and, for the VAE, interpolations between them."""
    images, digits = test_set[:]
    labels = MODELS[checkpoint["model"]].condition(digits)
    title = f"{title_of(checkpoint)}, test images of {name_source(test_set.info, checkpoint)}"

    codes = encode(model, images, *labels)
    reconstructions = decode(model, codes, *labels)
    error = three_digits(mse_loss(reconstructions, images).item())
    path = picture_path(root, checkpoint, "reconstruction")
    subtitle = f"mean squared error of the whole test set {error}"
    plot_reconstructions(images[:EXAMPLES].numpy(), reconstructions[:EXAMPLES].numpy(), path, f"{title}\n{subtitle}")

    axis = "latent dimension" if codes.shape[1] <= 2 else "principal component"
    path = picture_path(root, checkpoint, "latent")
    plot_latent_space(project(codes).numpy(), digits.numpy(), path, title, axis)

    if checkpoint["model"] == "MNIST_VAE":
        paired = min(EXAMPLES, len(images)) // 2 * 2  # digits
        steps = decode(model, interpolate(codes[:paired], STEPS))
        path = picture_path(root, checkpoint, "interpolation")
        title += ": from one (left) to another (right) in equal steps between the means of q(z|x)"
        plot_samples(add_endpoints(images[:paired], steps).numpy(), path, title, columns=STEPS + 2)


def random_latents(checkpoint: dict, seed: int) -> torch.Tensor:
    """SAMPLES latent vectors from N(0, I); for the CVAE, ten rows with the same latent vectors in each."""
    zs = normal_latents(checkpoint["config"]["latent_size"], SAMPLES, seed)
    if MODELS[checkpoint["model"]].needs_labels:
        return zs[: SAMPLES // CLASSES].repeat(CLASSES, 1)
    return zs


def plot_random_digits(model, checkpoint: dict, zs: torch.Tensor, path: Path, source: str) -> None:
    """The digits of latent vectors, SAMPLES of them; for the CVAE a row for each digit. source: where z is from."""
    digits = torch.arange(CLASSES).repeat_interleave(SAMPLES // CLASSES)
    labels = MODELS[checkpoint["model"]].condition(digits)
    title = f"{title_of(checkpoint)}, trained on {checkpoint['data']['name']}: {source}"
    if labels:
        title += ", the same down each column"
    rows = [str(digit) for digit in range(CLASSES)] if labels else None
    plot_samples(decode(model, zs, *labels).numpy(), path, title, labels=rows)


def picture_path(root: Path, checkpoint: dict, kind: str) -> Path:
    """The path of a picture of a model."""
    return root / "vis" / f"mnist_{checkpoint['model'].removeprefix('MNIST_')}_{kind}.png"


def title_of(checkpoint: dict) -> str:
    """The first lines of a picture's title."""
    return f"{name_model(checkpoint)}\n{checkpoint['config']['latent_size']} latents"


if __name__ == "__main__":
    run_script(main)
