"""Pictures that nobody photographed, from the trained models of the flowers, and how good they are.

    python random_generation.py --model VAE                              # also: AE, GAN, DDPM
    python random_generation.py --model AE --n 100 --seed 1 --temperature 0.7
    python random_generation.py --model DDPM --label calendula --guidance 2
    python random_generation.py --model AE --sampler gmm                 # latent vectors like those of photographs
    python random_generation.py --model VAE --interpolate                # from one photograph to another
    python random_generation.py --score > ./log/score.txt                # all models against held-out photographs

Writes vis/random_images_<M>.png; or vis/random_images_<M>_<species>.png; or vis/random_images_<M>_<sampler>.png and
vis/samplers_<M>.png; or vis/interpolation_<M>.png; or vis/generation_comparison.png and vis/nearest_<M>.png. The last
three commands also read the photographs.
"""

import argparse

from checkpoints import UserError
from trained import DRAWING, load_model, load_photographs, name_model
from training import HelpFormatter, add_data_flags, natural_int, positive_float, positive_int, run_script
from visualization import plot_samplers, plot_samples

MOST = 5000  # a picture may be 65,535 pixels high
SAMPLERS = {"normal": "N(0, I)", "gaussian": "a fitted Gaussian", "gmm": "a fitted mixture"}
SHOWN = 10  # pictures of each sampler side by side
ONLY = {  # the models that a flag is for, where it is not for all
    "temperature": ("AE", "VAE", "GAN"),
    "sampler": ("AE", "VAE"),
    "interpolate": ("AE", "VAE"),
    "label": ("DDPM",),
    "guidance": ("DDPM",),
}
WALKS, STEPS = 6, 10  # pairs of photographs, and pictures from one to the other


def parse_args(argv=None):
    """The flags; some are for some models alone."""
    parser = argparse.ArgumentParser(description="Draw random pictures of flowers.", formatter_class=HelpFormatter)
    parser.add_argument("--model", choices=DRAWING, help="which one draws")
    parser.add_argument("--n", metavar="N", type=positive_int, default=60, help="number of pictures")
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the random numbers")
    group = parser.add_argument_group("AE, VAE, GAN")
    group.add_argument(
        "--temperature", metavar="X", type=positive_float, default=1.0, help="factor on the random latent vectors"
    )
    group = parser.add_argument_group("AE, VAE")
    group.add_argument(
        "--sampler",
        choices=list(SAMPLERS),
        default="normal",
        help="of latent vectors: N(0, I), or a Gaussian, or a mixture of ten, fitted to the training photographs'",
    )
    group.add_argument("--interpolate", action="store_true", help="instead, go from one held-out photograph to another")
    group = parser.add_argument_group("DDPM")
    group.add_argument("--label", metavar="SPECIES", help="of the pictures, the name of its folder")
    group.add_argument(
        "--guidance", metavar="X", type=positive_float, default=1.0, help="above 1: truer to the species, less varied"
    )
    group = parser.add_argument_group("score")
    group.add_argument("--score", action="store_true", help="instead, compare --model, or all, with photographs")
    add_data_flags(parser)
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _check(parser, args):
    """End with status 2 where flags do not go together."""
    if args.n > MOST:
        parser.error(f"argument --n: {args.n} is more than one picture holds, at most {MOST}")
    if not args.model and not args.score:
        parser.error("the following arguments are required: --model")
    given = [name for name in vars(args) if getattr(args, name) != parser.get_default(name)]
    for name in given:
        if args.score and name not in ("score", "model", "seed", "data", "data_root", "output_root"):
            parser.error(f"argument --{name}: not together with --score, which draws from all models alike")
        if args.interpolate and name in ("n", "seed", "temperature", "sampler"):
            parser.error(f"argument --{name}: not together with --interpolate, whose pairs of photographs are fixed")
        if args.model not in ONLY.get(name, DRAWING) and not args.score:
            parser.error(f"argument --{name}: it is for {', '.join(ONLY[name])}, not for {args.model}")
        if name in ("data", "data_root") and not {"score", "interpolate", "sampler"} & set(given):
            parser.error(f"argument --{name.replace('_', '-')}: these pictures need no photographs")


def picture(args, name: str):
    """The path of a picture."""
    return args.output_root / "vis" / f"{name}.png"


def draw_random(args, model, checkpoint):
    """Random pictures; returns them as a tensor (n, 3, H, W)."""
    from sampling import decode, diffuse, draw_latents, encode, fit_prior, standard_normal

    title = f"{name_model(checkpoint)}, trained on {checkpoint['data']['name']}:\n"
    if args.model == "DDPM":
        label = find_label(args.label, checkpoint["data"]["classes"])
        images = diffuse(model, args.n, args.seed, label, args.guidance)
        title += f"{args.label or 'all species'}, guidance {args.guidance:g}"
    elif args.sampler == "normal":
        latents = args.temperature * draw_latents(standard_normal(model.encoding_dim), args.n, args.seed)
        images = decode(model, latents)
        title += "z from N(0, 1)" if args.temperature == 1 else f"z from N(0, {args.temperature:g}²)"
    else:
        codes = encode(model, load_photographs(args, checkpoint)[0][:][0])
        priors = {sampler: fit_prior(sampler, codes) for sampler in SAMPLERS}
        latents = {name: args.temperature * draw_latents(prior, args.n, args.seed) for name, prior in priors.items()}
        show_samplers(args, model, checkpoint, codes, latents)
        images = decode(model, latents[args.sampler])
        title += f"z from {SAMPLERS[args.sampler]}"
        title += "" if args.temperature == 1 else f", times {args.temperature:g}"
    kind = args.label or ("" if args.sampler == "normal" else args.sampler)
    name = "_".join(["random_images", args.model, *([kind] if kind else [])])
    plot_samples(images.numpy(), picture(args, name), f"{title}, seed {args.seed}")
    return images


def find_label(name: str | None, classes: list[str]) -> int | None:
    """The number of a species. Raises UserError where the model knows none of that name."""
    if name is None:
        return None
    if name not in classes:
        raise UserError(f"argument --label: the model was not trained on {name}; it knows {', '.join(classes)}")
    return classes.index(name)


def show_samplers(args, model, checkpoint, codes, latents: dict) -> None:
    """One picture of where the samplers' latent vectors lie among codes (N, D), and of what becomes of them."""
    import torch

    from model import project
    from sampling import decode

    count = min(args.n, SHOWN)
    points = project(torch.cat([codes, *latents.values()])).split([len(codes), *[args.n] * len(latents)])
    names = ["training photographs", *(f"z from {SAMPLERS[sampler]}" for sampler in latents)]
    rows = [decode(model, z[:count]).numpy() for z in latents.values()]
    title = f"{name_model(checkpoint)}, trained on {checkpoint['data']['name']}, seed {args.seed}"
    path = picture(args, f"samplers_{args.model}")
    plot_samplers(dict(zip(names, points, strict=True)), rows, list(SAMPLERS.values()), path, title)


def walk(args, model, checkpoint):
    """From the code of one held-out photograph to that of another; returns the pictures (walks * STEPS, 3, H, W)."""
    from model import interpolate
    from sampling import decode, encode

    held_out = load_photographs(args, checkpoint)[1]
    walks = min(WALKS, len(held_out) // 2)
    if walks == 0:
        raise UserError(f"expected 2 or more held-out images to go from one to another, found {len(held_out)}")
    images = decode(model, interpolate(encode(model, held_out[: 2 * walks][0]), STEPS))
    title = f"{name_model(checkpoint)}:\nfrom one held-out image of {held_out.info['name']} to another, in equal steps"
    plot_samples(images.numpy(), picture(args, f"interpolation_{args.model}"), title, columns=STEPS)
    return images


def main(argv=None):
    """Draw the pictures; returns them as a tensor (n, 3, H, W), or with --score what was measured."""
    args = parse_args(argv)
    if args.score:
        from score import score

        return score(args)
    model, checkpoint = load_model(args.model, args.output_root)
    return (walk if args.interpolate else draw_random)(args, model, checkpoint)


if __name__ == "__main__":
    run_script(main)
