"""DiT as its authors wrote it."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class OriginalDiT(nn.Module):
    """DiT as its paper describes it, with the names of its authors' files; slow and plain, for comparison."""

    def __init__(self, depth: int, width: int, heads: int, size: int, classes: int, channels: int = 4) -> None:
        super().__init__()
        self.heads, self.width, self.channels = heads, width, 2 * channels
        self.side = size // 2
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(channels, width, 2, stride=2)})
        self.t_embedder = nn.ModuleDict(
            {"mlp": nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))}
        )
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(classes + 1, width)})
        self.pos_embed = nn.Parameter(positions(self.side, width), requires_grad=False)
        self.blocks = nn.ModuleList(self.block(width) for _ in range(depth))
        self.final_layer = nn.ModuleDict(
            {
                "linear": nn.Linear(width, 4 * self.channels),
                "adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width)),
            }
        )

    @staticmethod
    def block(width: int) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "attn": nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}),
                "mlp": nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}),
                "adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)),
            }
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        tokens = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        angles = t[:, None].float() * frequencies  # in float32, as in both implementations
        condition = self.t_embedder["mlp"](torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype))
        condition = condition + self.y_embedder["embedding_table"](y)
        for block in self.blocks:
            shift1, scale1, gate1, shift2, scale2, gate2 = block["adaLN_modulation"](condition)[:, None].chunk(6, -1)
            tokens = tokens + gate1 * self.attention(block["attn"], normed(tokens) * (1 + scale1) + shift1)
            hidden = block["mlp"]["fc1"](normed(tokens) * (1 + scale2) + shift2)
            tokens = tokens + gate2 * block["mlp"]["fc2"](functional.gelu(hidden, approximate="tanh"))
        shift, scale = self.final_layer["adaLN_modulation"](condition)[:, None].chunk(2, -1)
        pixels = self.final_layer["linear"](normed(tokens) * (1 + scale) + shift)
        pixels = pixels.reshape(len(x), self.side, self.side, 2, 2, self.channels).permute(0, 5, 1, 3, 2, 4)
        return pixels.reshape(len(x), self.channels, 2 * self.side, 2 * self.side)

    def attention(self, layers: Any, tokens: Tensor) -> Tensor:
        rows = layers["qkv"](tokens).reshape(*tokens.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = rows
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        return layers["proj"]((weights @ value).transpose(1, 2).flatten(2))


def normed(tokens: Tensor) -> Tensor:
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def positions(side: int, width: int) -> Tensor:
    """The fixed table, [1, side², width]: sines and cosines of the column, then of the row."""
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    parts = [wave(place.flatten()[:, None] * omega) for place in (column, row) for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, 1).float()[None]
