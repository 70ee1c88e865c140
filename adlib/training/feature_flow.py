"""Flows of frozen features: what FastFlow, U-Flow and MSFlow share.

A normalising flow takes the feature maps of a frozen network to white noise. It is made for maps of one size, which the
training images decide, and is saved with their shapes.
"""

import torch

from adlib.detector import Detector
from adlib.images import ImageSet
from adlib.training.frozen_features import check_shapes, features_of, frozen_features
from adlib.training.loop import train


class FeatureFlow(Detector):
    """Base of these methods. A subclass has the parameters weights, epochs, batch_size, precision and cache_gib.
    It writes

    build_backbone(weights, seed)  the frozen network: images float [B, 3, H, W] -> feature maps [B, C, h, w]
    build_flow(shapes)             the flow of maps of these shapes (C, h, w): flow(features) gives the latents, each
                                   [B, C, h, w], and the log-determinant [B]; flow.latents(features) the latents alone
    loss(latents, log_det)         what is minimised, a scalar
    """

    def build_for_images(self, images: ImageSet) -> None:
        """Backbone and flow before training, on the device; the flow's initial weights are drawn here."""
        self.backbone_ = self.build_backbone(self.weights, self.seed_).to(self.device_)
        self.shapes_ = [tuple(stage.shape[1:]) for stage in self.backbone_(images.pixels(0)[None].to(self.device_))]
        self.flow_ = self.build_flow(self.shapes_).to(self.device_)

    def train_flow(self, images: ImageSet, optimiser: torch.optim.Optimizer, progress: bool, **options) -> None:
        """Train it on the images' features. options: further ones of adlib.training.loop.train."""

        def loss(batch):
            return self.loss(*self.flow_(features_of(self, batch)))

        self.losses_ = train(
            self,
            frozen_features(self, images, self.cache_gib, progress),
            loss,
            {"flow": self.flow_},
            optimiser,
            epochs=self.epochs,
            batch_size=self.batch_size,
            precision=self.precision,
            progress=progress,
            **options,
        )

    def latents(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Of images float [B, 3, H, W]. Raises InputError for sizes that were not learned."""
        features = self.backbone_(batch)
        check_shapes(features, self.shapes_)
        return self.flow_.latents(features)

    def state(self):
        return {"shapes": torch.tensor(self.shapes_), **super().state()}

    def build_for(self, state):
        self.shapes_ = [tuple(shape) for shape in state.pop("shapes").tolist()]
        self.backbone_ = self.build_backbone("random", 0)
        self.flow_ = self.build_flow(self.shapes_)
