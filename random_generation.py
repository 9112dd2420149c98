"""Pictures that nobody photographed: latent vectors from N(0, 1) through a trained decoder.

    python random_generation.py --model VAE
    python random_generation.py --model AE --n 100 --seed 1 --temperature 0.7

Writes vis/random_images_<M>.png. The checkpoint is all it needs, no data set.
"""

import argparse

from training import HelpFormatter, add_output_flag, natural_int, positive_float, positive_int, run_script
from visualization import load_model, name_model, plot_samples

MOST = 5000  # a picture may be 65,535 pixels high


def main(argv=None):
    """Draw the pictures; returns them as a tensor (n, 3, H, W)."""
    parser = argparse.ArgumentParser(description="Decode random latent vectors.", formatter_class=HelpFormatter)
    parser.add_argument("--model", choices=["AE", "VAE"], required=True, help="whose decoder to use")
    parser.add_argument("--n", metavar="N", type=positive_int, default=60, help="number of pictures")
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the latent vectors")
    parser.add_argument(
        "--temperature", metavar="X", type=positive_float, default=1.0, help="standard deviation of the latent vectors"
    )
    add_output_flag(parser)
    args = parser.parse_args(argv)
    if args.n > MOST:
        parser.error(f"argument --n: {args.n} is more than one picture holds, at most {MOST}")
    model, checkpoint = load_model(args.model, args.output_root)
    import torch  # after the flags: it takes a second to load

    latents = torch.randn(
        args.n, checkpoint["config"]["encoding_dim"], generator=torch.Generator().manual_seed(args.seed)
    )
    with torch.no_grad():
        images = model.decoder(args.temperature * latents)
    spread = "1" if args.temperature == 1 else f"{args.temperature:g}²"
    title = f"{name_model(checkpoint)}, trained on {checkpoint['data']['name']}:\n"
    title += f"z from N(0, {spread}), seed {args.seed}"
    plot_samples(images.numpy(), args.output_root / "vis" / f"random_images_{args.model}.png", title)
    return images


if __name__ == "__main__":
    run_script(main)
