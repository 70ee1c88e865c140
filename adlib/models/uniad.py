"""UniAD: "A Unified Model for Multi-class Anomaly Detection".

You, Cui, Shen, Yang, Lu, Zheng, Le; NeurIPS 2022; arXiv 2206.03687. A transformer learns to rebuild the frozen features
of the normal images of all categories together; where it fails, by Euclidean distance, is anomalous. So that it cannot
copy its input, attention skips each token's neighbourhood, every decoder layer begins with a learned query instead of
the image, and noise is added to the features in training. What the layers have in common with OneNIP's stands in
adlib.networks.feature_transformer.

One model of all categories is what the paper trains: give fit images of several categories. Of one category it learns
as well, which the authors have hardly tried (their code reaches less there).

Follows the official code. What is ours:
- the last epoch counts; the official code keeps the best of every tenth epoch's pixel AUROC on the TEST images. It
  also replaces an AUROC below 0.5 by 1 minus it; adlib does so nowhere;
- the weights are timm's of the same origin; the seed is fit's, there 133.

Other readings, as parameters:
- 3CAD: images of 256 pixels, on whose 16 x 16 tokens the mask grows to 9 x 9 (as in ADer's port); whether one model
  learned all classes is not stated.
- the paper's 8 GPUs with 8 images each: batch_size=64, the learning rate unchanged; 7 GiB.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.detector import Facts
from adlib.features.aligned_features import distances, window_maximum
from adlib.networks.feature_transformer import Attention, FeatureTransformer, feed_forward, initialise, jittered
from adlib.parameters import Count, NotNegative, Positive, Share, ShareBelowOne, Stages, Whole
from adlib.training.feature_reconstruction import FeatureReconstruction
from adlib.training.frozen_features import features_of, frozen_features
from adlib.training.loop import PRECISIONS


class DecoderLayer(nn.Module):
    """A learned query per position looks at the encoded image, then at what the layer before made of it."""

    def __init__(self, tokens: int, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.query = nn.Parameter(torch.randn(tokens, width))
        self.to_image = Attention(width, heads, dropout)
        self.to_previous = Attention(width, heads, dropout)
        self.feed = feed_forward(width, hidden, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, previous, encoded, positions, blocked):
        """previous, encoded: float [B, N, D]. Returns the same shape."""
        x = self.query.expand(len(encoded), -1, -1)
        x = self.norms[0](x + self.dropout(self.to_image(x, encoded, positions, blocked)))
        x = self.norms[1](x + self.dropout(self.to_previous(x, previous, positions, blocked)))
        return self.norms[2](x + self.dropout(self.feed(x)))


class Reconstruction(FeatureTransformer):
    """Features float [B, C, h, w] -> rebuilt features of the same shape."""

    def __init__(self, channels, grid, neighbours, width, heads, hidden, encoder_layers, decoder_layers, dropout):
        super().__init__(channels, grid, neighbours, width, heads, hidden, encoder_layers, dropout)
        tokens = grid[0] * grid[1]
        self.decoder = nn.ModuleList(DecoderLayer(tokens, width, heads, hidden, dropout) for _ in range(decoder_layers))
        self.norm = nn.LayerNorm(width)
        initialise(self.modules())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        positions = self.positions()
        encoded = self.encode(self.tokens(features), positions)
        x = encoded  # the first decoder layer has no layer before it
        for layer in self.decoder:
            x = layer(x, encoded, positions, self.blocked)
        return self.features(self.norm(x))


class UniAD(FeatureReconstruction):
    """UniAD. Images of 224 pixels; at prediction they must have the size that was learned.

    backbone, weights, stages: the frozen features, all resized to the coarsest stage's grid (adlib.features.backbones).
        A ResNet-18 has the same stages 0 to 3, of 64, 64, 128 and 256 channels.
    padded_for: pixels for which an EfficientNet pads, 380 in the official code (adlib.features.aligned_features).
    neighbours: side of the square of tokens around each that it does not see; None takes half the grid's, as there.
    width, heads, hidden, encoder_layers, decoder_layers, dropout: of the transformer.
    jitter: amount of the features' noise in training (alpha).
    epochs, batch_size, learning_rate, weight_decay, clip_norm: of AdamW.
    milestone, decay: one epoch after this share of them, as in the official code, the learning rate is multiplied by
        decay.
    score_window: side of the mean filter before the map's maximum is taken as image score.
    cache_gib: frozen features of the training images are kept in memory if they need no more; 0 never keeps them.
    precision: of training, see adlib.training.loop.
    """

    name = "uniad"
    facts = Facts("feature reconstruction", 2022, joint="meant")
    image_defaults = {"size": 224}

    def __init__(
        self,
        backbone: str = "tf_efficientnet_b4.aa_in1k",
        weights: str = "pretrained",
        stages: Stages = (0, 1, 2, 3),
        padded_for: Count | None = 380,
        neighbours: Whole | None = None,
        width: Count = 256,
        heads: Count = 8,
        hidden: Count = 1024,
        encoder_layers: Count = 4,
        decoder_layers: Count = 4,
        dropout: ShareBelowOne = 0.1,
        jitter: NotNegative = 20.0,
        epochs: Count = 1000,
        batch_size: Count = 8,
        learning_rate: Positive = 1e-4,
        weight_decay: NotNegative = 1e-4,
        clip_norm: Positive = 0.1,
        milestone: Share = 0.8,
        decay: Positive = 0.1,
        score_window: Count = 16,
        cache_gib: NotNegative = 2.0,
        precision: Literal[*PRECISIONS] = "float32",
    ): ...

    def fit_images(self, images, val, progress):
        self.build_for_images(images)
        features = frozen_features(self, images, self.cache_gib, progress)
        self.train_on(features, self.reconstruction_.parameters(), progress)

    def make_networks(self, channels, grid):
        transformer = (self.neighbours, self.width, self.heads, self.hidden, self.encoder_layers, self.decoder_layers)
        self.reconstruction_ = Reconstruction(channels, grid, *transformer, self.dropout)

    def loss(self, batch: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        (features,) = features_of(self, batch)
        return F.mse_loss(self.reconstruction_(jittered(features, self.jitter)).float(), features)

    def score_batch(self, batch):
        features = self.features(batch)
        maps = distances(features, self.reconstruction_(features), batch.shape[-2:])
        return window_maximum(maps, self.score_window), maps

    def grid_of(self, state):
        return len(state["reconstruction.rows"]), len(state["reconstruction.columns"])
