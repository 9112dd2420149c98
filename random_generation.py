"""New images of flowers from the trained models, and how good they are.

    python random_generation.py --model VAE                              # also: AE, GAN, DDPM
    python random_generation.py --model AE --n 100 --seed 1 --temperature 0.7
    python random_generation.py --model DDPM --label calendula --guidance 2
    python random_generation.py --model AE --sampler gmm                 # latent vectors like those of photographs
    python random_generation.py --model VAE --interpolate                # from one photograph to another
    python random_generation.py --score > ./log/score.txt                # all models against held-out photographs

Writes vis/random_images_<M>.png, for DDPM also vis/species_DDPM.png and vis/denoising_DDPM.png; or
vis/random_images_<M>_<species>.png; or vis/random_images_<M>_<sampler>.png and vis/samplers_<M>.png; or
vis/interpolation_<M>.png; or vis/scores.png, vis/generation_comparison.png and vis/nearest_<M>.png. The last three
commands also read the photographs.
"""

from training import flags
from training.flags import SAMPLERS

MODELS = ("AE", "VAE", "GAN", "DDPM")
FLAG_MODELS = {  # the models that a flag is for, where it is not for all
    "temperature": ("AE", "VAE", "GAN"),
    "sampler": ("AE", "VAE"),
    "interpolate": ("AE", "VAE"),
    "label": ("DDPM",),
    "guidance": ("DDPM",),
}
MAX_IMAGES = 5000  # a PNG may be 65,535 pixels high


def parse_args(argv=None):
    """The flags; some are for some models alone."""
    parser = flags.make_parser("Generate images of flowers.")
    flags.add_model_flag(parser, MODELS, "which one samples")
    parser.add_argument("--n", metavar="N", type=flags.positive_int, default=60, help="number of images")
    parser.add_argument("--seed", metavar="N", type=flags.natural_int, default=0, help="of the random numbers")
    group = parser.add_argument_group("AE, VAE, GAN")
    factor = {"metavar": "X", "type": flags.positive_float, "default": 1.0}
    group.add_argument("--temperature", **factor, help="factor on the random latent vectors")
    group = parser.add_argument_group("AE, VAE")
    flags.add_sampler_flag(group, "photographs'")
    group.add_argument("--interpolate", action="store_true", help="instead, go from one held-out photograph to another")
    group = parser.add_argument_group("DDPM")
    group.add_argument("--label", metavar="SPECIES", help="of the images, the name of its folder")
    group.add_argument("--guidance", **factor, help="above 1: truer to the species, less varied")
    group = parser.add_argument_group("score")
    group.add_argument("--score", action="store_true", help="instead, compare --model, or all, with photographs")
    flags.add_data_flags(parser)
    args = parser.parse_args(argv)
    check_flags(parser, args)
    return args


def check_flags(parser, args) -> None:
    """End with status 2 where flags do not go together."""
    if args.n > MAX_IMAGES:
        parser.error(f"argument --n: {args.n} is more than one figure holds, at most {MAX_IMAGES}")
    if not args.model and not args.score:
        parser.error("the following arguments are required: --model")
    given = flags.given(parser, args)
    for name in given:
        if args.score and name not in ("score", "model", "seed", "data", "data_root", "output_root"):
            parser.error(f"argument --{name}: not together with --score, which samples all models alike")
        if args.interpolate and name in ("n", "seed", "temperature", "sampler"):
            parser.error(f"argument --{name}: not together with --interpolate, whose pairs of photographs are fixed")
        if args.model not in FLAG_MODELS.get(name, MODELS) and not args.score:
            parser.error(f"argument --{name}: it is for {', '.join(FLAG_MODELS[name])}, not for {args.model}")
        if name in ("data", "data_root") and not {"score", "interpolate", "sampler"} & set(given):
            parser.error(f"argument --{name.replace('_', '-')}: these images need no photographs")


if __name__ == "__main__":
    flags.parse_first(parse_args)

import torch

from evaluation.models import load_model, load_photographs, name_model
from evaluation.sampling import (
    between,
    decode,
    denoising,
    encode,
    fit_prior,
    interpolate,
    project,
    sample_diffusion,
    sample_latents,
    standard_normal,
)
from evaluation.score import score
from training import UserError
from training.figures import plot_samplers, plot_samples
from training.script import run_script

SHOWN = 10  # images of each sampler or species side by side, and steps of the denoising
WALKS, STEPS = 6, 10  # pairs of photographs, and images from one to the other


def figure_path(args, name: str):
    """The path of a figure."""
    return args.output_root / "vis" / f"{name}.png"


def generate(args, model, checkpoint):
    """Random images; returns them as a tensor (n, 3, H, W)."""
    title = f"{name_model(checkpoint)}\ntrained on {checkpoint['data']['name']}: "
    if model.has_label:
        label = find_label(args.label, checkpoint["data"]["classes"])
        images = sample_diffusion(model, args.n, args.seed, label, guidance=args.guidance)
        title += f"{args.label or 'all species'}, guidance {args.guidance:g}"
        if label is None:
            show_species(args, model, checkpoint)
    elif args.sampler == "normal":
        latents = args.temperature * sample_latents(standard_normal(model.encoding_dim), args.n, args.seed)
        images = decode(model, latents)
        title += "z from N(0, 1)" if args.temperature == 1 else f"z from N(0, {args.temperature:g}²)"
    else:
        codes = encode(model, load_photographs(args, checkpoint)[0][:][0], args.seed)
        priors = {sampler: fit_prior(sampler, codes) for sampler in SAMPLERS}
        latents = {name: args.temperature * sample_latents(prior, args.n, args.seed) for name, prior in priors.items()}
        compare_samplers(args, model, checkpoint, codes, latents)
        images = decode(model, latents[args.sampler])
        title += f"z from {SAMPLERS[args.sampler]}"
        title += "" if args.temperature == 1 else f", times {args.temperature:g}"
    kind = args.label or ("" if args.sampler == "normal" else args.sampler)
    name = "_".join(["random_images", args.model, *([kind] if kind else [])])
    plot_samples(images.numpy(), figure_path(args, name), f"{title}, seed {args.seed}")
    return images


def find_label(name: str | None, classes: list[str]) -> int | None:
    """The number of a species. Raises UserError where the model knows none of that name."""
    if name is None:
        return None
    if name not in classes:
        raise UserError(f"argument --label: the model was not trained on {name}; it knows {', '.join(classes)}")
    return classes.index(name)


def show_species(args, model, checkpoint) -> None:
    """A row of samples of each species, and how one of each comes into being."""
    data = checkpoint["data"]
    classes, title = data["classes"], f"{name_model(checkpoint)}\ntrained on {data['name']}: "
    labels = range(len(classes))
    rows = [sample_diffusion(model, SHOWN, args.seed, label, guidance=args.guidance) for label in labels]
    about = f"{title}the same noise for all species, seed {args.seed}"
    plot_samples(torch.cat(rows).numpy(), figure_path(args, f"species_{args.model}"), about, SHOWN, classes)
    rows = [denoising(model, SHOWN, args.seed, label, guidance=args.guidance) for label in labels]
    names = [text for name in classes for text in (name, "prediction")]
    about = f"{title}from noise (left) to image, and what is predicted on the way, seed {args.seed}"
    plot_samples(torch.cat(rows).numpy(), figure_path(args, f"denoising_{args.model}"), about, SHOWN, names)


def compare_samplers(args, model, checkpoint, codes, latents: dict) -> None:
    """One figure of where the samplers' latent vectors lie among codes (N, D), and of what they decode to."""
    count = min(args.n, SHOWN)
    points = project(torch.cat([codes, *latents.values()])).split([len(codes), *[args.n] * len(latents)])
    names = ["training photographs", *(f"z from {SAMPLERS[sampler]}" for sampler in latents)]
    rows = [decode(model, z[:count]).numpy() for z in latents.values()]
    title = f"{name_model(checkpoint)}\ntrained on {checkpoint['data']['name']}, seed {args.seed}"
    path = figure_path(args, f"samplers_{args.model}")
    plot_samplers(dict(zip(names, points, strict=True)), rows, list(SAMPLERS.values()), path, title)


def walk(args, model, checkpoint):
    """From the code of one held-out photograph to that of another; returns rows of images (walks * (STEPS + 2), 3, H,
    W), with the two photographs at their ends."""
    held_out = load_photographs(args, checkpoint)[1]
    walks = min(WALKS, len(held_out) // 2)
    if walks == 0:
        raise UserError(f"expected 2 or more held-out images to go from one to another, found {len(held_out)}")
    photographs = held_out[: 2 * walks][0]
    images = between(photographs, decode(model, interpolate(encode(model, photographs), STEPS)))
    title = f"{name_model(checkpoint)}\nfrom one held-out image of {held_out.info['name']} (left)"
    title += " to another (right) in equal steps between their latent vectors"
    plot_samples(images.numpy(), figure_path(args, f"interpolation_{args.model}"), title, columns=STEPS + 2)
    return images


def main(argv=None):
    """Plot the images; returns them as a tensor (n, 3, H, W), or with --score what was measured."""
    args = parse_args(argv)
    if args.score:
        return score(args)
    model, checkpoint = load_model(args.model, args.output_root)
    return (walk if args.interpolate else generate)(args, model, checkpoint)


if __name__ == "__main__":
    run_script(main)
