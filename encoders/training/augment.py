"""Random crops, flips and colours, on the device; everything drawn from the generator that is passed in."""

import torch
from torch.nn import functional


def augment(
    pixels: torch.Tensor, *, crop_scale: float, flip: bool, jitter: float, generator: torch.Generator
) -> torch.Tensor:
    """A changed copy of pictures; all frames of a clip change alike.

    Args:
      pixels: float (B, F, 3, H, W), normalised.
      crop_scale: smallest share of the area that is kept; aspect ratios vary from 3/4 to 4/3.
      flip: left and right exchanged in half of the pictures.
      jitter: brightness and contrast change by up to this share.

    Returns:
      The same shape and dtype.
    """
    count = len(pixels)
    draw = torch.rand(6, count, generator=generator, device=pixels.device)
    area = crop_scale + (1 - crop_scale) * draw[0]
    aspect = ((draw[1] * 2 - 1) * 0.2877).exp()  # ln(4/3)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    sign = torch.where(draw[2] < 0.5, -1.0, 1.0) if flip else torch.ones_like(width)
    zero = torch.zeros_like(width)
    theta = torch.stack(
        [
            torch.stack([width * sign, zero, (draw[3] * 2 - 1) * (1 - width)], 1),
            torch.stack([zero, height, (draw[4] * 2 - 1) * (1 - height)], 1),
        ],
        1,
    )  # (B, 2, 3)
    flat = pixels.flatten(1, 2)  # (B, F * 3, H, W)
    grid = functional.affine_grid(theta, list(flat.shape), align_corners=False)
    out = functional.grid_sample(flat, grid.to(flat.dtype), padding_mode="reflection", align_corners=False)
    shift, gain = (torch.rand(2, count, 1, 1, 1, 1, generator=generator, device=pixels.device) * 2 - 1) * jitter
    changed: torch.Tensor = out.view(pixels.shape) * (1 + gain) + shift
    return changed
