"""Train AE, VAE or CVAE on MNIST, or what completes digits, and plot what it has learnt.

    python main.py --model VAE > ./log/train_MNIST_VAE.txt
    python main.py --model CVAE --figures-only --labels 2 0 2 6      # from the checkpoint, without training
    python main.py --model VAE --latent-size 2 --output-root plane       # the latent space as a picture
    python main.py --model CVAE --gif                                # and how the digits come about
    python main.py --model VAE --binarize --samples 5 --latent-size 50 --epochs 60 --output-root iwae
    python main.py --model VAE --evaluate --output-root iwae            # its test set's likelihood
    python main.py --model CVAE --given 2                            # completes digits from their left half; so does NN

Writes models/BestModel_MNIST_<M>.pth, models/LastModel_MNIST_<M>.pth, vis/loss_MNIST_<M>.png and vis/mnist_<M>_*.png;
with --given N <M> is CVAE_givenN or NN_givenN, and the picture vis/mnist_completion_N.png.
"""

import math
from argparse import Namespace

from training import flags

DEFAULTS = {  # of flags, for each --model; the CVAE's samples are the digits asked for where the KL weighs more
    "AE": {"recon": "mse", "beta": None, "kl_peak": None},
    "VAE": {"recon": "bce", "beta": 1.0, "kl_peak": 1.0},
    "CVAE": {"recon": "bce", "beta": 1.6, "kl_peak": 1.0},
    "NN": {"recon": "bce", "beta": None, "kl_peak": None},
}
COMPLETES = {  # the same with --given
    "CVAE": {"beta": 1.0, "latent_size": 50, "shift": 0.5, "epochs": 12, "nll_samples": 100},
    "NN": {"latent_size": None, "shift": 0.5, "epochs": 12, "nll_samples": None},
}
READ = {  # flags by which a trained model is asked for
    "figures_only": {"model", "given", "labels", "sampler", "seed", "data", "data_root", "output_root", "figures_only"},
    "evaluate": {"given", *flags.READ_BY_EVALUATE},
}
NOT_WITH_GIVEN = ("labels", "gif", "sampler", "kl_peak", "recon")
NOT_TRAINING = ("figures_only", "labels", "gif", "sampler", "evaluate", "nll_samples")  # flags that change no weight


def parse_args(argv=None):
    """The flags; the loss depends on --model."""
    with_given = {f"{model} --given N": defaults for model, defaults in COMPLETES.items()}
    parser = flags.make_parser("Train AE, VAE or CVAE on MNIST.", DEFAULTS | with_given)
    flags.add_model_flag(parser, DEFAULTS, "which one to train", required=True)
    group = parser.add_argument_group("model")
    text = "predict the rest of digits, given N quadrants: 1 the lower left, 2 the left half, 3 all but the lower right"
    group.add_argument("--given", type=int, choices=[1, 2, 3], help=text)
    size, weight = {"metavar": "N", "type": flags.positive_int}, {"metavar": "X", "type": flags.positive_float}
    group.add_argument("--hidden-size", **size, default=512, help="width of the hidden layers")
    group.add_argument("--latent-size", **size, default=20, help="length of the latent vector")
    group.add_argument("--recon", choices=["bce", "mse"], help="cross-entropy or squared errors")
    group.add_argument("--binarize", action="store_true", help="draw pixels of 0 and 1, anew in each epoch")
    text = "share of the training digits that are moved by a pixel; 0.5 with --given"
    group.add_argument("--shift", metavar="X", type=flags.share, help=text)
    samples = {"metavar": "K", "type": flags.sample_count, "default": 1}
    group.add_argument("--samples", **samples, help="of q(z|x), rising to K, importance weighted: above 1 an IWAE")
    group.add_argument("--beta", **weight, help="weight of the KL")
    group.add_argument("--kl-peak", **weight, help="factor on --beta: rises from 1 to X half-way, falls to 1")
    flags.add_training_flags(parser, epochs=10, batch_size=128, lr=4e-3, patience=10)
    flags.add_torch_flags(parser)
    flags.add_data_flags(parser, flags.MNIST_HELP)
    group = parser.add_argument_group("figures")
    group.add_argument("--figures-only", action="store_true", help="plot them from the checkpoint, without training")
    group.add_argument("--labels", metavar="DIGIT", type=flags.digit, nargs="+", help="also write these, with CVAE")
    group.add_argument("--gif", action="store_true", help="also film how latent vectors turn into digits")
    flags.add_sampler_flag(group, "digits'")
    flags.add_evaluation_flags(parser)
    first = flags.peek(argv, "model", "samples", "given")
    model = flags.find_model(first.model, DEFAULTS)
    parser.set_defaults(**DEFAULTS.get(model, {}))
    if first.given:
        parser.set_defaults(**COMPLETES.get(model, {}))
    elif first.samples not in (None, "1") and model != "AE":
        parser.set_defaults(beta=1.0, kl_peak=1.0)
    args = parser.parse_args(argv)
    check_flags(parser, args)
    return args


def check_flags(parser, args) -> None:
    """End with status 2 where flags do not go together."""
    if args.given and args.model not in COMPLETES:
        parser.error(f"argument --given: {args.model} completes no digits; use --model CVAE or NN")
    if args.model == "NN" and not args.given:
        parser.error("argument --model: NN is the baseline of --given 1, 2 or 3; add one of them")
    for name in flags.given(parser, args) if args.given else []:
        if name in NOT_WITH_GIVEN or args.model == "NN" and name in ("latent_size", "beta", "samples", "nll_samples"):
            parser.error(f"argument --{name.replace('_', '-')}: not for {args.model} with --given")
    if args.model != "CVAE" and args.labels:
        parser.error(f"argument --labels: {args.model} knows no labels; use --model CVAE")
    if args.model == "AE" and (args.beta or args.kl_peak or args.samples > 1):
        parser.error("argument --beta, --kl-peak or --samples: AE has no KL to weigh, nothing to sample")
    if args.samples > 1 and (args.beta, args.kl_peak) != (1, 1):
        parser.error("argument --samples: the importance-weighted bound has the KL at weight 1; leave out the others")
    if args.model == "AE" and args.evaluate:
        parser.error("argument --evaluate: AE is no distribution of images; use --model VAE or CVAE")
    for mode, read in READ.items():
        flags.check_mode(parser, args, mode, read)


if __name__ == "__main__":
    flags.parse_first(parse_args)

import torch
from torch.nn.functional import binary_cross_entropy, mse_loss
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from data import create_mnist_dataloaders, describe, mean_image_loss, output_root
from evaluation.completion import plot_completions
from evaluation.digits import FilmedLearner, evaluate, figure_path, latents_and_labels, plot_all
from evaluation.likelihood import log_ratio
from evaluation.models import TABLE, load_model, name_mnist_model
from generators.completion import given_pixels
from model import BLOCKS
from training import UserError, is_synthetic
from training.distributed import init_distributed, rank, rank_0_first
from training.figures import plot_film
from training.learner import TorchLearner
from training.loop import fit, last_lines, warn_unless_below
from training.script import log, run_script, seed_everything


class Losses:
    """What the models minimise, per image: reconstruction + beta KL(q(z|x) || N(0, I)).

    That is the negative evidence lower bound (Kingma & Welling 2014, equation 3) for beta 1; beta other than 1 weights
    the KL (Higgins et al. 2017). beta None: there is no KL, as for the AE. recon says what -log p(x|z) is:
    "bce", the cross-entropy of a Bernoulli distribution for each pixel, in nats; "mse", the squared errors, which are
    those of a Gaussian of variance 1/2, up to a constant. given: of quadrants, whose pixels do not count, and whose
    models have a prior of their own in place of N(0, I).
    """

    def __init__(self, recon: str = "bce", beta: float | None = 1.0, given: int | None = None):
        self.recon, self.beta, self.given = recon, beta, given

    def reconstruction(self, reconstructions, xs):
        """-log p(x|z) of images (B, ...), summed over the pixels: (B,), or (K, B) for K reconstructions of each.

        Raises UserError for values outside [0, 1].
        """
        low, high = (bound.item() for bound in xs.aminmax())
        if not 0 <= low <= high <= 1:
            raise UserError(f"expected images with values from 0 to 1, found {low:g} to {high:g}")
        if not reconstructions.isfinite().all():  # cross-entropy would raise; the training loop says what to do
            return reconstructions.flatten(1 - xs.dim()).sum(dim=-1)
        per_pixel = binary_cross_entropy if self.recon == "bce" else mse_loss
        losses = per_pixel(reconstructions, xs.expand_as(reconstructions), reduction="none")
        if self.given:
            losses = losses.masked_fill(given_pixels(self.given, xs.device), 0)
        return losses.flatten(1 - xs.dim()).sum(dim=-1)

    def kl_div(self, p, q):
        """KL(p || q) of two diagonal Gaussians, each (mean, standard deviation) of shape (B, D), in nats: (B,).

        sum over d of  log(sigma_q / sigma_p) + (sigma_p^2 + (mu_p - mu_q)^2) / (2 sigma_q^2) - 1/2
        """
        (mu_p, sigma_p), (mu_q, sigma_q) = p, q
        ratio = sigma_p / sigma_q
        kl = 0.5 * (ratio.square() + ((mu_p - mu_q) / sigma_q).square() - 1) - ratio.log()
        return kl.sum(dim=1)

    def __call__(self, outputs, xs, kl_weight=None):
        """(mean loss of an image, what the log says of it), for what a model made of images xs.

        kl_weight takes the place of beta in the loss to minimise, not in what the log says. With K > 1 samples of z it
        is the importance-weighted bound (`importance_weighted`), and recon the mean over the samples.
        """
        if self.beta is None:  # the AE's squared error is stated per pixel, like the flowers'
            loss = self.reconstruction(outputs, xs).mean()
            return loss, {"loss": loss.item() / (xs[0].numel() if self.recon == "mse" else 1)}
        reconstructions, mu, sigma, *several = outputs
        prior = mu.new_zeros(()), mu.new_ones(())
        if self.given:
            *prior, several = *several[:2], several[2:]
        kl = self.kl_div((mu, sigma), prior)
        if several:
            recon, loss = self.importance_weighted(reconstructions, xs, (mu, sigma), prior, *several)
            loss = value = loss.mean()
        else:
            recon = self.reconstruction(reconstructions, xs)
            value = (recon + self.beta * kl).mean()
            loss = value if kl_weight is None else (recon + kl_weight * kl).mean()
        return loss, {"loss": value.item(), "recon": recon.mean().item(), "kl": kl.mean().item()}

    def importance_weighted(self, reconstructions, xs, q, p, zs, decode):
        """-log p(x|z) of K samples z of q(z|x), (K, B), and the negative importance-weighted bound on log p(x), (B,).

        -log 1/K sum over k of w_k,  where w_k = p(x|z_k) p(z_k) / q(z_k|x)     (Burda et al. 2016, equation 8)
        Its gradient is the mean over the K of that of -log w_k, weighted by w_k / sum w. So one z, drawn by these
        weights, gives an unbiased one at the price of a VAE's. The encoder's, which fades in noise as K grows, is
        replaced by the doubly reparameterized one (Tucker et al. 2019, equation 8): through z alone, times the weight.
        With --amp the weights are those of bfloat16's reconstructions, and the one z is decoded in float32.
        """
        recon = self.reconstruction(reconstructions, xs)
        log_w = (-recon - log_ratio(zs, *q, *p)).detach()
        bound = math.log(len(zs)) - log_w.logsumexp(dim=0)
        if not torch.is_grad_enabled():
            return recon, bound
        weights = log_w.softmax(dim=0).nan_to_num(1.0)  # of a loss that is not finite the training loop says more
        chosen = weights.T.multinomial(1).T  # (1, B)
        z = zs.gather(0, chosen[..., None].expand(1, *zs.shape[1:]))[0]
        z = z.detach() + weights.gather(0, chosen).T * (z - z.detach())
        loss = self.reconstruction(decode(z), xs) + log_ratio(z, *(part.detach() for part in q), *p)
        return recon, bound + loss - loss.detach()


def build_learner(args, config: dict, steps: int) -> TorchLearner:
    """Model, loss, optimizer and schedule, for so many steps in all."""
    model = TABLE[name_mnist_model(args.model, args.given)].build(**config).to(args.device)
    hidden, parameters = " -> ".join([str(args.hidden_size)] * (1 + BLOCKS)), sum(map(torch.numel, model.parameters()))
    layers = f"784 -> {hidden} -> {args.latent_size or args.hidden_size} -> {hidden} -> 784"
    log(f"Model: {args.model}, {layers}, {parameters:,} parameters")
    optimizer = AdamW(model.parameters(), args.lr, betas=(0.9, 0.99), fused=True)
    scheduler = OneCycleLR(optimizer, args.lr, steps, anneal_strategy="linear", cycle_momentum=False)
    losses = Losses(args.recon, args.beta, args.given)
    model.train_samples = lambda: round(args.samples ** (scheduler.last_epoch / steps))  # from 1 to --samples

    def measure(outputs, images):
        if args.kl_peak in (None, 1):
            return losses(outputs, images)
        done = scheduler.last_epoch / steps  # of the training, from 0 to 1
        return losses(outputs, images, args.beta * (1 + (args.kl_peak - 1) * math.sin(math.pi * done)))

    if args.gif:
        return FilmedLearner(*latents_and_labels(model, args.seed), model, measure, optimizer, scheduler, args.amp)
    return TorchLearner(model, measure, optimizer, scheduler, args.amp)


def train(args, loaders) -> list[dict]:
    """Train as args say; returns the history."""
    info = loaders[0].dataset.info
    log(f"Data: {describe(*loaders)}")
    args.output_root = output_root(args.output_root, info)
    for loader in loaders:
        loader.dataset.to(args.device)
    seed_everything(args.seed)
    name = name_mnist_model(args.model, args.given)
    config = {key: getattr(args, key) for key in TABLE[name].config}
    learner = build_learner(args, config, args.epochs * len(loaders[0]))
    about = {"model": name, "config": config, "data": info, "settings": {"epochs": args.epochs}}
    trained_by = Namespace(**{name: value for name, value in vars(args).items() if name not in NOT_TRAINING})
    best = fit(trained_by, about, loaders, learner)
    prior = [*torch.tensor([[[0.0]], [[1.0]]], device=args.device)] if learner.model.is_dist else []  # mu and sigma
    losses = Losses(args.recon, args.beta, args.given)
    warn_unless_below(mean_image_loss(loaders, losses, *(2 * prior if args.given else prior)), best)
    if rank() == 0:
        for line in last_lines(best, learner.suffix):
            log(line)
        if args.gif:
            titles = [f"{args.model} on {info['name']}, epoch {epoch}" for epoch in range(len(learner.frames))]
            plot_film([frame.numpy() for frame in learner.frames], figure_path(args, "training", "gif"), titles)
    return best["history"]


def main(argv=None, create=create_mnist_dataloaders):
    """Train and plot; returns the history, or with --evaluate what `evaluate` does. create: makes the loaders."""
    args = parse_args(argv)
    args.device, name = str(init_distributed(args.device)), name_mnist_model(args.model, args.given)
    trained = load_model(name, args.output_root) if args.figures_only or args.evaluate else None
    binarize, data = args.binarize, args.data
    if trained:
        binarize = trained[1]["settings"]["binarize"]
    if args.evaluate and is_synthetic(trained[1]["data"]) and not args.data_root:
        data = "synthetic"
    with rank_0_first():  # it may have to download them
        loaders = create(args.batch_size, args.data_root, data, binarized=binarize, shifted=args.shift)
    if args.evaluate:
        losses = Losses(trained[1]["settings"]["recon"], given=args.given)
        return evaluate(args, *trained, loaders[2].dataset, losses)
    history = trained[1]["history"] if trained else train(args, loaders)
    if rank() == 0:
        trained = trained or load_model(name, args.output_root)
        if args.given:
            plot_completions(args, trained[1], loaders)
        else:
            plot_all(args, *trained, loaders)
    return history


if __name__ == "__main__":
    run_script(main)
