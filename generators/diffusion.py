"""The diffusion model of the flowers: a cascade that samples a small image, then the details that double its size.

    model = Diffusion(class_prior=[0.3, 0.3, 0.4])
    loss, metrics = model.loss(model(images, labels), images)   # of (B, 3, 48, 48) and (B,)
    images = model.sample(noise, labels)    # (B, 3, 48, 48) and (B,) -> (B, 3, 48, 48) in [0, 1]

Haar's wavelet transform makes of 2x2 pixels their mean and three details. The means are an image of half the size. An
image of 48x48 is one of 12x12, the details that make 24x24 of it, and those that make 48x48: as many numbers as pixels.
Each of the three has a diffusion model of its own, conditional on the image so far (Guth et al. 2022). Details depend
on what is near them, and are small: noise hides them at most timesteps, unless they are standardised.

What a stage samples, x0, is diffused over T = 1000 timesteps (Ho et al. 2020, equation 4):

    x_t = alpha_t x0 + sigma_t e,  e from N(0, I),  alpha_t = cos(pi/2 * (t/T + 0.008) / 1.008),  alpha^2 + sigma^2 = 1

which is the cosine schedule (Nichol & Dhariwal 2021, equation 17, but for their division by alpha_0; alpha_t^2 is their
alpha-bar). The network is given x_t and t and predicts v = alpha_t e - sigma_t x0, from which both x0 and e follow
(Salimans & Ho 2022, section 4). Its squared error is that of e, the loss of Ho et al., over alpha_t^2: the timesteps of
almost pure noise, where e is plain to see, teach as well.
"""

import math
from collections import deque
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from Autoencoder import quarter
from generators.unet import TIMESTEPS, LocalNet, UNet
from generators.wavelets import deviation, haar, inverse_haar

LABEL_DROPOUT = 0.1  # probability of the null label in training, for classifier-free guidance
MIN_SIZE = 12  # pixels a side: no image is halved below it


class Diffusion(nn.Module):
    """The stages, from the coarsest image to the finest details. The height and the width are multiples of 4.

    class_prior: the probability of each class, for labels to sample from; the null label is the number of classes.
    Raises ValueError where the height or the width does not fit, or where the prior is no distribution.
    """

    def __init__(self, class_prior: list[float], img_height: int = 48, img_width: int = 48, width: int = 48):
        super().__init__()
        quarter(img_height, img_width)
        if not class_prior or min(class_prior) < 0 or abs(sum(class_prior) - 1) > 1e-3:
            raise ValueError(f"expected the probabilities of the classes, found {class_prior}")
        self.image_shape = (3, img_height, img_width)
        self.class_prior = class_prior
        classes = len(class_prior)
        self.stages = nn.ModuleList([Stage(3, 0, classes, width)])
        while min(img_height, img_width) >= 2 * MIN_SIZE and img_height % 4 == img_width % 4 == 0:
            img_height, img_width = img_height // 2, img_width // 2
            self.stages.append(Stage(9, 3, classes, width))

    @torch.no_grad()
    def standardise(self, images: torch.Tensor) -> None:
        """Divide by the standard deviations of these images (N, 3, H, W) in [0, 1] from now on, stage by stage."""
        for stage, pair in zip(self.stages, self.decompose(2 * images - 1), strict=True):
            stage.std = deviation(torch.cat(pair, dim=1))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Images (B, 3, H, W) in [0, 1] and labels (B,) -> (the prediction of v, v) of each stage."""
        dropped = torch.rand(len(labels), device=labels.device) < LABEL_DROPOUT
        labels = torch.where(dropped, len(self.class_prior), labels)
        parts = self.decompose(2 * images - 1)
        return [stage(*pair, labels) for stage, pair in zip(self.stages, parts, strict=True)]

    @staticmethod
    def loss(outputs: list, images: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, the metrics for the log) for what `forward` returned: the mean of the stages."""
        loss = torch.stack([F.mse_loss(prediction.float(), v) for prediction, v in outputs]).mean()
        return loss, {"loss": loss.item()}

    def decompose(self, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Images (B, 3, H, W) -> what each stage samples, and its condition: none (B, 0, h, w) for the coarsest image
        (B, 3, h, w); the image of half the size for details (B, 9, H/2, W/2)."""
        pairs = []
        for _ in self.stages[1:]:
            x, details = haar(x)
            pairs.insert(0, (details, x))
        return [(x, x[:, :0]), *pairs]

    def sample(self, noise: torch.Tensor, labels: torch.Tensor, **options) -> torch.Tensor:
        """Noise from N(0, I) (B, 3, H, W) and labels (B,) -> images in [0, 1]: the last that `denoise` predicts."""
        return deque(self.denoise(noise, labels, **options), maxlen=1).pop()[1]

    @torch.no_grad()
    def denoise(
        self, noise: torch.Tensor, labels: torch.Tensor, steps: int = 25, guidance: float = 1.0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What `sample` does, step by step: yields (x_t, the prediction of x0), as images (B, 3, H, W).

        Each stage takes so many steps. Noise and label alone determine the image: the noise of a stage is that of its
        pixels or details, which is from N(0, I) as well.
        """
        image = None
        for stage, (z, _) in zip(self.stages, self.decompose(noise), strict=True):
            condition = z[:, :0] if image is None else image
            for pair in stage.denoise(z, condition, labels, steps, guidance):
                state, x0 = (part if image is None else inverse_haar(image, part) for part in pair)
                yield self.upsample(state) / 2 + 0.5, (self.upsample(x0) / 2 + 0.5).clamp(0, 1)
            image = x0

    def upsample(self, x: torch.Tensor) -> torch.Tensor:
        """A coarse image in full size: all details that are not sampled yet are 0."""
        while x.shape[2] < self.image_shape[1]:
            x = inverse_haar(x, x.new_zeros(len(x), 9, *x.shape[2:]))
        return x


class Stage(nn.Module):
    """The diffusion model of x0 (B, C, H, W), the coarsest image or details, given a condition (B, K, H, W)."""

    def __init__(self, channels: int, condition: int, classes: int, width: int):
        super().__init__()
        self.channels = channels
        self.register_buffer("std", torch.ones(channels + condition, 1, 1))
        self.null_label = classes
        self.network = (LocalNet if condition else UNet)(channels + condition, channels, classes, width)

    def forward(self, x0: torch.Tensor, condition: torch.Tensor, labels: torch.Tensor):
        """(the prediction of v, v), each (B, C, H, W), at random timesteps.

        The timesteps are evenly spaced over the batch, from a random one on (Kingma et al. 2021, appendix I.1).
        """
        count = len(x0)
        device = x0.device
        both = torch.cat([x0, condition], dim=1) / self.std
        x0 = both[:, : self.channels]
        condition = both[:, self.channels :]
        spacing = torch.arange(count, device=device) * TIMESTEPS // count
        t = (torch.randint(TIMESTEPS, (1,), device=device) + spacing) % TIMESTEPS + 1
        alpha, sigma = schedule(t)
        noise = torch.randn_like(x0)
        noisy = torch.cat([alpha * x0 + sigma * noise, condition], dim=1)
        return self.network(noisy, t, labels), alpha * noise - sigma * x0

    def denoise(self, x, condition, labels, steps: int, guidance: float) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """From noise x (B, C, H, W) to x0: yields (x_t, the prediction of x0) of each step.

        Each predicts x0, extrapolates it from the prediction before it to the middle of the step, and takes a step of
        DDIM (Song et al. 2021) with that: DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), but for where the middle is.
        Theirs is in log(alpha / sigma), which is infinite in pure noise; ours in asinh(alpha / sigma), which differs
        from it by a constant in little noise. Steps are half as long at both ends, where large shapes and fine details
        are decided. The sample is the last prediction.

        guidance above 1 extrapolates away from the unconditional prediction (classifier-free guidance, Ho & Salimans
        2022, where it is 1 + w): truer to the class, and less varied.
        """
        std = self.std[: self.channels]
        condition = condition / self.std[self.channels :]
        even = torch.linspace(1, 0, steps + 1, device=x.device)
        timesteps = TIMESTEPS * (even - torch.sin(2 * math.pi * even) / (4 * math.pi))
        alphas, sigmas = schedule(timesteps)
        axis = (alphas / sigmas).asinh()
        previous = None
        for step, t in enumerate(timesteps[:-1].expand(len(x), -1).T):
            v = self.predict(torch.cat([x, condition], dim=1), t, labels, guidance)
            x0 = alphas[step] * x - sigmas[step] * v
            yield x * std, x0 * std
            middle = x0
            if step > 0:
                ratio = (axis[step + 1] - axis[step]) / (axis[step] - axis[step - 1])
                middle = x0 + ratio / 2 * (x0 - previous)
            x = sigmas[step + 1] / sigmas[step] * (x - alphas[step] * middle) + alphas[step + 1] * middle
            previous = x0

    def predict(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, guidance: float) -> torch.Tensor:
        """v (B, C, H, W)."""
        v = self.network(x, t, labels)
        if guidance == 1:
            return v
        unconditional = self.network(x, t, torch.full_like(labels, self.null_label))
        return unconditional + guidance * (v - unconditional)


def schedule(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha_t and sigma_t of timesteps (B,) from 0 to T, each (B, 1, 1, 1)."""
    angle = math.pi / 2 * (t[:, None, None, None] / TIMESTEPS + 0.008) / 1.008
    return angle.cos(), angle.sin()
