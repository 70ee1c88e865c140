"""Reconstruction of frozen features: what UniAD, OneNIP and CRAD share.

Each trains a network of its own that rebuilds the aligned features of a frozen backbone; where it fails, by Euclidean
distance, is anomalous (adlib.features.aligned_features). The three follow one official code in how they train, too:
AdamW, gradients clipped, one drop of the learning rate an epoch late, the last small batch kept.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.utils.data import Dataset

from adlib.detector import Detector
from adlib.features.aligned_features import AlignedBackbone
from adlib.images import ImageSet
from adlib.training.frozen_features import check_shapes
from adlib.training.loop import step_schedule, train


class FeatureReconstruction(Detector):
    """Base of these methods. A subclass has the parameters backbone, weights, stages, padded_for, epochs, batch_size,
    learning_rate, weight_decay, clip_norm, milestone, decay and precision. It writes

    make_networks(channels, grid)  the networks that are trained, into attributes, for features of C channels on h x w
    grid_of(state)                 h and w again, from what was saved
    loss(batch)                    what is minimised, one term or several by name
    score_batch
    """

    grid = "coarsest"  # the stage on whose positions the features lie

    def aligned_backbone(self, weights: str) -> AlignedBackbone:
        return AlignedBackbone(self.backbone, self.stages, weights, self.seed_, self.grid, self.padded_for)

    def build_for_images(self, images: ImageSet) -> None:
        """Backbone and networks before training, on the device."""
        self.backbone_ = self.aligned_backbone(self.weights)
        self.build(self.backbone_.grid(images.shape))
        self.to(self.device_)

    def build(self, grid: tuple[int, int]) -> None:
        """The networks before training; their initial weights come from the fit's seed."""
        self.shape_ = (self.backbone_.channels[0], *grid)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.make_networks(self.shape_[0], tuple(grid))

    def trained(self) -> dict[str, nn.Module]:
        return {name: network for name, network in self.networks().items() if network is not self.backbone_}

    def train_on(self, items: Dataset, parameters: Iterable[nn.Parameter] | list[dict], progress: bool) -> None:
        """Train the networks. parameters: of AdamW, or groups of them with rates of their own."""
        optimiser = torch.optim.AdamW(parameters, self.learning_rate, weight_decay=self.weight_decay, fused=True)
        self.losses_ = train(
            self,
            items,
            self.loss,
            self.trained(),
            optimiser,
            epochs=self.epochs,
            batch_size=self.batch_size,
            schedules=[step_schedule(optimiser, self.epochs, (self.milestone,), self.decay, late=1)],
            clip_norm=self.clip_norm,
            drop_last=False,
            precision=self.precision,
            progress=progress,
        )

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """Images float [B, 3, H, W] -> [B, C, h, w]. Raises InputError for sizes that were not learned."""
        (features,) = self.backbone_(batch)
        check_shapes([features], [self.shape_])
        return features

    def build_for(self, state):
        self.backbone_ = self.aligned_backbone("random")
        self.build(self.grid_of(state))
