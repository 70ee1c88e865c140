"""Tokens of transformers in PatchCore: AnomalyDINO's distance, score and foreground."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_tree

from adlib import ImageSet, InputError, create_model, evaluate, load_model, load_samples
from adlib.features.foreground import foreground
from adlib.samples import select

TOKENS = {"backbone": "test_vit", "weights": "random", "stages": (3,), "embedding": "tokens", "normed": True}
TOKENS |= {"distance": "cosine", "coreset_ratio": 1.0, "image_score": "worst", "worst_share": 0.1, "smoothing": 0.0}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    samples = load_samples("mvtec_ad", make_tree(tmp_path_factory.mktemp("tree")))
    return tuple(ImageSet(select(samples, split=split), size=96) for split in ("train", "test"))


def test_a_patch_scores_one_minus_the_cosine_to_the_nearest_and_an_image_its_worst_tenth(splits, tmp_path):
    train, test = splits
    model = create_model("patchcore", **TOKENS).fit(train, progress=False)
    batch = torch.stack([test[index]["image"] for index in range(2)])

    def tokens(images):
        return F.normalize(model.backbone_(images)[0].flatten(2).transpose(1, 2), dim=-1)

    bank = tokens(torch.stack([train[index]["image"] for index in range(len(train))])).flatten(0, 1)
    expected = 1 - (tokens(batch) @ bank.T).amax(2)  # [2, 36]
    scores, maps = model.score_batch(batch)
    torch.testing.assert_close(scores, expected.topk(3).values.mean(1), rtol=1e-3, atol=1e-5)
    assert maps.shape == (2, 96, 96)
    before = model.predict(test, progress=False)
    after = load_model(model.save(tmp_path / "model.safetensors")).predict(test, progress=False)
    assert (before.maps == after.maps).all()
    assert evaluate(before)["pixel_auroc"] > 0.8


def test_the_object_is_what_varies_most_and_fills_the_middle():
    tokens = torch.randn(2, 12, 12, 8, generator=torch.Generator().manual_seed(0))
    tokens[:, 3:9, 3:9, 0] += 60
    tokens[1, ..., 0] *= -1
    masks = foreground(tokens.flatten(1, 2), (12, 12)).view(2, 12, 12)
    for mask in masks:
        assert mask[3:9, 3:9].all() and mask.sum() == 8 * 8  # grown by one patch


def test_patches_of_the_background_are_neither_kept_nor_blamed(splits, monkeypatch):
    train, test = splits
    half = torch.arange(36) < 18
    monkeypatch.setattr("adlib.models.patchcore.foreground", lambda patches, grid: half.expand(len(patches), -1))
    model = create_model("patchcore", **TOKENS, masked=True).fit(train, progress=False)
    assert len(model.memory_bank_) == 18 * len(train)
    maps = model.predict(test, progress=False).maps
    assert (maps[:, 64:] == 0).all() and maps[:, :32].max() > 0
    monkeypatch.setattr("adlib.models.patchcore.foreground", lambda patches, grid: torch.zeros(len(patches), 36) > 0)
    with pytest.raises(InputError, match="took all of the training images for background"):
        create_model("patchcore", **TOKENS, masked=True).fit(train, progress=False)


def test_padim_reads_tokens_too(splits):
    settings = {"backbone": "test_vit", "weights": "random", "stages": (2, 3), "channels": 20, "smoothing": 0.0}
    model = create_model("padim", **settings).fit(splits[0], progress=False)
    assert evaluate(model.predict(splits[1], progress=False))["pixel_auroc"] > 0.8
