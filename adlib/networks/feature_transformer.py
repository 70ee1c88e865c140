"""The feature transformer: what UniAD and OneNIP share.

Feature maps become tokens, one per position; layers of attention rebuild them. A network that may look at a token while
it rebuilds it would simply copy it, anomalies included. Three things stand against that: no token sees its own
neighbourhood (the neighbour mask), noise is added to the features in training (the jitter), and the output is read from
another stream than the image's own (each method has its own decoder).
"""

from collections.abc import Iterable

import torch
from torch import nn

from adlib.errors import InputError


class FeatureTransformer(nn.Module):
    """Tokens, positions and encoder; a subclass adds its decoder.

    channels, grid: of the feature maps, C and (h, w); N = h x w tokens.
    neighbours: side of the square of tokens around each that it does not see, itself included; an even number counts
        as the next odd one. None takes half of the grid's sides, as OneNIP's settings do: 7 x 7 of 14 x 14.
    width, heads, hidden, layers, dropout: of the encoder.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        neighbours: int | None,
        width: int,
        heads: int,
        hidden: int,
        layers: int,
        dropout: float,
    ):
        super().__init__()
        if width % 2 or width % heads:
            raise InputError(f"width={width} must be even and a multiple of heads={heads}.")
        self.grid = tuple(grid)
        self.project_in = nn.Linear(channels, width)
        self.project_out = nn.Linear(width, channels)
        self.rows = nn.Parameter(torch.rand(grid[0], width // 2))
        self.columns = nn.Parameter(torch.rand(grid[1], width // 2))
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, hidden, dropout) for _ in range(layers))
        self.register_buffer("blocked", neighbour_mask(self.grid, neighbours), persistent=False)

    def positions(self) -> torch.Tensor:
        """What is added to queries and keys, never to values: float [N, width], first half by column, second by row."""
        height, width = self.grid
        columns = self.columns[None].expand(height, -1, -1)
        rows = self.rows[:, None].expand(-1, width, -1)
        return torch.cat([columns, rows], 2).flatten(0, 1)

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        """float [B, C, h, w] -> [B, N, width]."""
        return self.project_in(features.flatten(2).transpose(1, 2))

    def encode(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        for layer in self.encoder:
            tokens = layer(tokens, positions, self.blocked)
        return tokens

    def features(self, tokens: torch.Tensor) -> torch.Tensor:
        """float [B, N, width] -> [B, C, h, w]."""
        return self.project_out(tokens).transpose(1, 2).unflatten(2, self.grid)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each with a residual and a LayerNorm behind it."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.feed = feed_forward(width, hidden, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, positions: torch.Tensor, blocked: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](x + self.dropout(self.attention(x, x, positions, blocked)))
        return self.norms[1](x + self.dropout(self.feed(x)))


class Attention(nn.Module):
    """Multi-head attention: tokens x [B, N, D] look at others [B, M, D] -> [B, N, D]."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = nn.MultiheadAttention(width, heads, dropout, batch_first=True)

    def forward(
        self, x: torch.Tensor, others: torch.Tensor, positions: torch.Tensor, blocked: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.heads(x + positions, others + positions, others, attn_mask=blocked, need_weights=False)[0]


def feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))


def neighbour_mask(grid: tuple[int, int], neighbours: int | None) -> torch.Tensor:
    """Which tokens do not see which: bool [N, N], True in row i for the tokens around token i, itself included.

    neighbours: side of the square, see FeatureTransformer. UniAD, section 3.2.
    Raises InputError for a grid so small, or a square so large, that a token would see nothing.
    """
    far = []
    for side in grid:
        reach = (side // 2 if neighbours is None else neighbours) // 2
        places = torch.arange(side)
        far.append((places[:, None] - places).abs() > reach)
    blocked = ~(far[0][:, None, :, None] | far[1][None, :, None, :]).reshape(grid[0] * grid[1], -1)
    if blocked.all(1).any():
        raise InputError(
            f"On a grid of {grid[0]}x{grid[1]} tokens with neighbours={neighbours} some token would see no other: use "
            "larger images, finer stages or fewer neighbours."
        )
    return blocked


def jittered(features: torch.Tensor, amount: float) -> torch.Tensor:
    """Features [B, C, h, w] with Gaussian noise, at each position of standard deviation amount x norm / C.

    UniAD, section 3.3: alpha is the amount.
    """
    norms = features.norm(dim=1, keepdim=True) / features.shape[1]
    return features + torch.randn_like(features) * norms * amount


def initialise(modules: Iterable[nn.Module]) -> None:
    """Xavier-uniform weights and zero biases of linear and convolution layers, in place, as officially set."""
    for module in modules:
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
