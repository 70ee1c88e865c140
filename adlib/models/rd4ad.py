"""RD4AD: "Anomaly Detection via Reverse Distillation from One-Class Embedding".

Deng, Li; CVPR 2022; arXiv 2201.10703. A frozen teacher's features at three scales pass through a trained bottleneck
into a small embedding, from which a trained decoder rebuilds them, deepest first. What normal images never showed does
not survive the bottleneck, so the rebuilt features differ there. The networks stand in adlib.networks.distillation.

Follows the official code, also where the paper differs: the loss takes ONE cosine over each level's whole feature map
(loss="image"), where the paper describes one per position (loss="position"). The last epoch is kept, as there.

Other readings, as parameters:
- moviad, as it compared methods on MIIC: backbone="resnet18.tv_in1k" whatever was asked for, images of 224 pixels,
  smoothing=0.
- anomalib: betas=(0.5, 0.99) in its newer versions, and the backbone's weights of timm's default tag.
"""

from typing import Literal

import torch
from torch import nn

from adlib.anomaly_map import smooth
from adlib.detector import Detector, Facts
from adlib.features.backbones import Backbone
from adlib.networks.distillation import (
    Bottleneck,
    Decoder,
    cosine_distance,
    distance_map,
    image_cosine_distance,
    levels_loss,
    teacher_shape,
)
from adlib.parameters import Count, NotNegative, Positive, ShareBelowOne
from adlib.training.loop import PRECISIONS, train


class RD4AD(Detector):
    """RD4AD. Images of 256 pixels.

    backbone, weights: the teacher, any timm ResNet (adlib.features.backbones); its stages 1, 2 and 3 are used.
    epochs, batch_size, learning_rate, betas: of Adam without weight decay or schedule. Large batches learn less.
    loss: cosine distance of whole feature maps, "image" (official), or per "position".
    smoothing: sigma of the anomaly map's blur in pixels, 0 for none.
    precision: of training, see adlib.training.loop.
    """

    name = "rd4ad"
    facts = Facts("student and teacher", 2022)
    side_multiple = 32

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        weights: str = "pretrained",
        epochs: Count = 200,
        batch_size: Count = 16,
        learning_rate: Positive = 0.005,
        betas: tuple[ShareBelowOne, ShareBelowOne] = (0.5, 0.999),
        loss: Literal["image", "position"] = "image",
        smoothing: NotNegative = 4.0,
        precision: Literal[*PRECISIONS] = "float32",
    ): ...

    def fit_images(self, images, val, progress):
        self.build(self.weights)
        self.to(self.device_)
        trained = self.trained()
        parameters = [value for module in trained.values() for value in module.parameters()]
        self.losses_ = train(
            self,
            images,
            self.distillation_loss,
            trained,
            torch.optim.Adam(parameters, self.learning_rate, self.betas, fused=True),
            epochs=self.epochs,
            batch_size=self.batch_size,
            drop_last=False,
            precision=self.precision,
            progress=progress,
        )

    def build(self, weights: str) -> None:
        """The networks before training; the trained ones' initial weights come from the fit's seed."""
        self.backbone_ = Backbone(self.backbone, (1, 2, 3), weights, self.seed_)
        shape = teacher_shape(self.backbone)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.bottleneck_ = Bottleneck(shape).to(memory_format=torch.channels_last)
            self.decoder_ = Decoder(shape).to(memory_format=torch.channels_last)

    def trained(self) -> dict[str, nn.Module]:
        return {"bottleneck": self.bottleneck_, "decoder": self.decoder_}

    def embed(self, features: list[torch.Tensor]) -> torch.Tensor:
        return self.bottleneck_(features)

    def features(self, batch: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The teacher's feature maps and the rebuilt ones, float32 [B, C, h, w] per level."""
        teacher = self.backbone_(batch)
        rebuilt = self.decoder_(self.embed(teacher))
        return [level.float() for level in teacher], [level.float() for level in rebuilt]

    def distillation_loss(self, batch: torch.Tensor) -> torch.Tensor:
        distance = image_cosine_distance if self.loss == "image" else cosine_distance
        return levels_loss(*self.features(batch), distance)

    def score_batch(self, batch):
        maps = smooth(distance_map(*self.features(batch), batch.shape[-2:]), self.smoothing)
        return maps.amax((1, 2)), maps
