"""Weights as the page holds them: int8, with a float scale for each row, packed into text.

    rows, scales = quantise(weight)             # int8 (N, ...) and float32 (N,), N: outputs of the layer
    description, data = pack(model.state_dict())
    model.load_state_dict(dequantise(model.state_dict()))       # what the page computes with

A pixel moves by 0.001 on average, which nobody sees, and the file is a quarter as large.
"""

import base64
import zlib

import numpy as np
import torch

LEVELS = 127  # of an int8, to each side of 0


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (N, ...) as int8 of the same shape, and what one level is worth in each row: (N,)."""
    flat = weight.flatten(1)
    scales = flat.abs().amax(dim=1).clamp(min=1e-12) / LEVELS
    rows = (flat / scales[:, None]).round().to(torch.int8)
    return rows.view(weight.shape), scales


def dequantise(state_dict: dict) -> dict:
    """The weights that the page computes with: those of layers rounded, biases and other vectors as they are."""
    weights = {}
    for name, weight in state_dict.items():
        weights[name] = weight
        if is_quantised(weight):
            rows, scales = quantise(weight)
            weights[name] = rows * scales.view(-1, *[1] * (weight.dim() - 1))
    return weights


def is_quantised(weight: torch.Tensor) -> bool:
    """Whether a tensor is the weight of a layer; statistics (C, 1, 1) and vectors are not."""
    return weight.dim() >= 2 and weight[0].numel() > 1


def pack(tensors: dict[str, torch.Tensor]) -> tuple[list, str]:
    """([[name, shape, type], ...], the data as text) of named tensors. type: "rows", scales and then int8; "f4"; "u1".

    The data are one deflated stream, in base64.
    """
    description = []
    parts = []
    for name, tensor in tensors.items():
        kind = "u1" if tensor.dtype == torch.uint8 else "rows" if is_quantised(tensor) else "f4"
        description.append([name, list(tensor.shape), kind])
        if kind == "rows":
            rows, scales = quantise(tensor.float())
            parts += [as_bytes(scales.float()), as_bytes(rows)]
        else:
            parts.append(as_bytes(tensor if kind == "u1" else tensor.float()))
    return description, base64.b64encode(zlib.compress(b"".join(parts), 9)).decode()


def as_bytes(tensor: torch.Tensor) -> bytes:
    """The numbers of a tensor in order, little-endian."""
    array = np.ascontiguousarray(tensor.numpy())
    return array.astype(array.dtype.newbyteorder("<")).tobytes()
