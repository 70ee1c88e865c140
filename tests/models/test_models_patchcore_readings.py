"""PatchCore as other libraries read it: enlargement, distance, the paper's image score; and f-AnoGAN's epochs."""

import math

import pytest
import torch

from adlib import create_model
from adlib.anomaly_map import upsample
from adlib.features.patch_embedding import concatenated_embedding


def test_the_image_score_is_less_where_the_bank_is_dense_around_the_nearest_patch():
    model = create_model("patchcore", image_score="reweighted", support=2)
    model.memory_bank_ = torch.tensor([[0.0], [1.0], [10.0]])
    patches = torch.tensor([[[2.0], [0.1]], [[13.0], [10.0]]])  # the worst ones lie 1 and 3 from the bank
    scores = model.reweighted(patches, torch.tensor([[1.0, 0.1], [3.0, 0.0]]))
    # Around 1 lie 1 and 0, 1 and 2 from the patch; around 10 lie 10 and 1, 3 and 12 from it.
    share = [math.exp(1) / (math.exp(1) + math.exp(2)), math.exp(3) / (math.exp(3) + math.exp(12))]
    expected = [1 - share[0], 3 * (1 - share[1])]
    assert scores.tolist() == pytest.approx(expected)


def test_support_beyond_the_bank_is_the_whole_bank():
    model = create_model("patchcore", image_score="reweighted")
    model.memory_bank_ = torch.tensor([[0.0], [4.0]])
    score = model.reweighted(torch.tensor([[[1.0]]]), torch.tensor([[1.0]]))
    assert score.item() == pytest.approx(1 - math.exp(1) / (math.exp(1) + math.exp(3)))


def test_nearest_enlargement_repeats_values():
    scores = torch.tensor([[[0.0, 4.0]]])
    assert upsample(scores, (2, 4), "nearest").tolist() == [[[0, 0, 4, 4]] * 2]
    assert upsample(scores, (2, 4))[0, 0].tolist() == [0, 1, 3, 4]
    stages = [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)]
    stages[1][0, 0] = torch.tensor([[9.0, 0.0], [0.0, 0.0]])
    coarse = concatenated_embedding(stages, "nearest")[0, :, 1].view(4, 4)
    assert (coarse == 1).all()  # a mean over 3 x 3 of the stage padded by zeros, everywhere
    stages[1] = torch.arange(16.0).view(1, 1, 4, 4)[..., ::2, ::2]
    coarse = concatenated_embedding(stages, "nearest")[0, :, 1].view(4, 4)
    assert (coarse[::2] == coarse[1::2]).all()
    assert (coarse[:, ::2] == coarse[:, 1::2]).all()


def test_an_epoch_of_f_anogan_shows_so_many_patches_of_each_image(monkeypatch):
    asked = {}
    monkeypatch.setattr("adlib.models.fanogan.train", lambda *_, **settings: asked.update(settings) or [])
    model = create_model("fanogan", width=4, patches_per_image=16)
    model.seed_ = 0
    model.build()
    model.train_gan(None, False)
    assert asked["epochs"] == 7 * 16
