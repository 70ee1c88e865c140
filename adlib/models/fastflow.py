"""FastFlow: "Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows".

Yu, Zheng, Wang, Li, Wu, Zhao, Wu; 2021; arXiv 2111.07677. A fully convolutional normalising flow per scale maps
frozen features to white noise and keeps their layout; where the likelihood is low, the image is anomalous.

The authors released no code. Follows the common re-implementation (gathierry/FastFlow), which differs from the paper
in a trainable LayerNorm over [C, h, w] in front of each flow of a ResNet, and in scoring by z alone: the
log-determinant serves training, not the map. It computes no image score; ours is the map's largest value, as in the
libraries below. Named by their parameters, other behaviours that published tables used:
- moviad (MIIC, table 3): train_norms=False, weight_decay=0, batch_size=4, a wide ResNet-50 whatever was asked for,
  images of 224 pixels;
- anomalib (3CAD, which names no backbone; the library's default is a ResNet-18): kernels=(3, 1) on every ResNet,
  as here on a wide ResNet-50; it ends when pixel AUROC on validation images, anomalous ones among them, has not risen
  for three epochs. Here the number of epochs is fixed, because nothing is chosen on anomalous images.

Training peaks early and drifts, by up to 5 points on textures (issue 4 of the re-implementation). On a ResNet-18 the
flow has 1.5 times the backbone's multiplications, so a prediction takes 2.8 times as long as timm's ResNet alone; with
kernels=(3, 1) it has 0.8 times as many.
"""

from typing import Annotated, Literal

import torch
from torch import nn

from adlib.anomaly_map import upsample
from adlib.detector import Facts
from adlib.features.backbones import Backbone
from adlib.networks.flow_blocks import (
    ScaleNorms,
    TokenBackbone,
    convolutional_flow,
    log_likelihood,
    negative_log_likelihood,
)
from adlib.parameters import Count, NotNegative, Odd, Positive, Some, Stages
from adlib.training.feature_flow import FeatureFlow
from adlib.training.loop import PRECISIONS

# Steps of the flow, kernels that they take in turn, hidden channels per input channel.
STEPS = {
    "resnet18": (8, (3,), 1.0),
    "wide_resnet50_2": (8, (3, 1), 1.0),
    "deit_base_distilled_patch16_384": (20, (3, 1), 0.16),
    "cait_m48_448": (20, (3, 1), 0.16),
}
# Transformers give one map, after this block (counted from 0), without LayerNorm in front of the flow.
LAST_BLOCK = {"deit_base_distilled_patch16_384": 7, "cait_m48_448": 40}


class FastFlowNet(nn.Module):
    """LayerNorm and flow for each feature map.

    shapes: (C, h, w) of each map. steps, kernels, hidden_ratio: as in STEPS. norm: with LayerNorm; affine: with
    learned scale and offset.

    net(features) gives the latents, each [B, C, h, w], and the log-determinant [B], summed over the maps.
    """

    def __init__(self, shapes, steps, kernels, hidden_ratio, norm=True, affine=True):
        super().__init__()
        self.norms = ScaleNorms(shapes, affine) if norm else None
        self.flows = nn.ModuleList(convolutional_flow(shape[0], steps, kernels, hidden_ratio) for shape in shapes)

    def forward(self, features):
        outputs = [flow(stage) for flow, stage in zip(self.flows, self.normalised(features), strict=True)]
        return [latent for latent, _ in outputs], sum(log_det for _, log_det in outputs)

    def latents(self, features):
        """The latents alone, for prediction."""
        return [flow.latent(stage) for flow, stage in zip(self.flows, self.normalised(features), strict=True)]

    def normalised(self, features):
        return features if self.norms is None else self.norms(features)


class FastFlow(FeatureFlow):
    """FastFlow. Images of 256 pixels for ResNets, 384 for DeiT, 448 for CaiT; no crop.

    backbone: a ResNet, "deit_base_distilled_patch16_384.fb_in1k" or "cait_m48_448.fb_dist_in1k"; weights, stages: as of
        adlib.features.backbones (stages of ResNets only).
    steps, kernels, hidden_ratio: of the flow; None takes STEPS of the backbone, a ResNet-18's for one not listed.
    norm_affine, train_norms: LayerNorms with scale and offset, and whether these are trained.
    epochs, batch_size, learning_rate, weight_decay: of Adam, without a schedule.
    precision: of the training (adlib.training.loop); likelihoods are float32 in any case.
    cache_gib: GiB of main memory in which the training images' features may stay, so that the backbone runs once.
    """

    name = "fastflow"
    facts = Facts("normalising flow", 2021)

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.racm_in1k",
        weights: str = "pretrained",
        stages: Stages = (1, 2, 3),
        steps: Count | None = None,
        kernels: Annotated[tuple[Odd, ...], Some()] | None = None,
        hidden_ratio: Positive | None = None,
        norm_affine: bool = True,
        train_norms: bool = True,
        epochs: Count = 500,
        batch_size: Count = 32,
        learning_rate: Positive = 1e-3,
        weight_decay: NotNegative = 1e-5,
        precision: Literal[*PRECISIONS] = "float32",
        cache_gib: NotNegative = 4.0,
    ): ...

    def build_backbone(self, weights: str, seed: int) -> Backbone:
        block = LAST_BLOCK.get(self.backbone.split(".")[0])
        if block is None:
            return Backbone(self.backbone, self.stages, weights, seed)
        return TokenBackbone(self.backbone, block, weights, seed)

    def build_flow(self, shapes: list[tuple[int, int, int]]) -> FastFlowNet:
        """The trained network for feature maps of these shapes (C, h, w)."""
        family = self.backbone.split(".")[0]
        given = (self.steps, self.kernels, self.hidden_ratio)
        chosen = [mine or listed for mine, listed in zip(given, STEPS.get(family, STEPS["resnet18"]), strict=True)]
        net = FastFlowNet(shapes, *chosen, norm=family not in LAST_BLOCK, affine=self.norm_affine)
        if net.norms is not None:
            net.norms.requires_grad_(self.train_norms)
        return net

    def fit_images(self, images, val, progress):
        self.build_for_images(images)
        trained = [value for value in self.flow_.parameters() if value.requires_grad]
        optimiser = torch.optim.Adam(trained, lr=self.learning_rate, weight_decay=self.weight_decay)
        self.train_flow(images, optimiser, progress, drop_last=True)

    def loss(self, latents: list[torch.Tensor], log_det: torch.Tensor) -> torch.Tensor:
        return negative_log_likelihood(latents, log_det)

    def score_batch(self, batch):
        maps = [upsample(-log_likelihood(z).exp(), batch.shape[-2:]) for z in self.latents(batch)]
        anomaly_map = sum(maps) / len(maps)
        return anomaly_map.amax((1, 2)), anomaly_map
