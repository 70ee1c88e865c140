"""Tokens of transformers: in PatchCore as AnomalyDINO reads them, in PaDiM, and Dinomaly, which rebuilds them."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_tree

from adlib import ImageSet, InputError, create_model, evaluate, load_model, load_samples
from adlib.features.foreground import foreground
from adlib.models import dinomaly
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


# Dinomaly


def test_linear_attention_is_a_mean_of_values_by_products_of_positive_features():
    attention = dinomaly.LinearAttention(8, 2)
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    query, key, value = attention.qkv(x).chunk(3, -1)
    expected = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = (F.elu(query[0, :, head]) + 1) @ (F.elu(key[0, :, head]) + 1).T  # [5, 5]
        expected.append(weights / weights.sum(1, keepdim=True) @ value[0, :, head])
    torch.testing.assert_close(attention(x), attention.out(torch.cat(expected, 1)[None]))


def test_places_that_are_rebuilt_well_pull_less():
    wanted = [torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))]
    start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    gradients = []
    for easy in (0.0, 0.75):
        found = start.clone().requires_grad_()
        middle = found * 1.0  # as from a network
        dinomaly.hard_mining_loss(wanted, [middle], easy).backward()
        gradients.append(found.grad)
    ratio = (gradients[1] / gradients[0]).mean(1).flatten()
    distance = (1 - F.cosine_similarity(wanted[0], start, dim=1)).flatten()
    hard = distance.topk(8).indices
    torch.testing.assert_close(ratio[hard], torch.ones(8))
    assert ((ratio - 0.1).abs() < 1e-4).sum() == 24


def test_groups_leave_out_what_has_no_place():
    tokens = [torch.full((1, 2 + 6, 4), float(block)) for block in range(4)]
    first, second = dinomaly.grouped(tokens, 2, 2, (2, 3))
    assert first.shape == (1, 4, 2, 3) and (first == 0.5).all() and (second == 2.5).all()


def test_class_and_register_tokens_are_read_too(splits):
    tokens = dinomaly.Tokens("vit_tiny_patch16_dinov3_qkvb", (1, 2), "random")
    image = splits[0][0]["image"][None]
    assert tokens.tokens(image)[0].shape == (1, 5 + 6 * 6, 192)
    torch.testing.assert_close(tokens.tokens(image)[0][:, 5:], tokens(image)[0].flatten(2).transpose(1, 2))


def test_dinomalys_rate_rises_and_falls_to_a_tenth():
    model = create_model("dinomaly")
    assert model.rate(0) == 0.01 and model.rate(99) == model.rate(100) == 1
    assert model.rate(10_000) == pytest.approx(0.1)


def test_one_dinomaly_learns_several_categories(splits, tmp_path):
    small = {"backbone": "test_vit", "weights": "random", "stages": (1, 2), "heads": 2, "steps": 2, "batch_size": 4}
    two = load_samples("folder", make_tree(make_tree(tmp_path / "tree", "one"), "two"))
    train = ImageSet(select(two, split="train"), size=64)
    assert train.samples["category"].nunique() == 2
    model = create_model("dinomaly", **small).fit(train, progress=False)
    assert model.predict(train, progress=False).maps.shape == (12, 64, 64)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"groups": 3}, "groups=3 must divide the number of stages, 8"),
        ({"backbone": "test_vit", "stages": (1, 2), "weights": "random", "heads": 5}, "heads=5 must divide the width"),
        ({"backbone": "test_resnet", "stages": (1, 2), "weights": "random"}, "no plain vision transformer"),
    ],
)
def test_what_dinomaly_cannot_read_is_a_sentence(splits, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        create_model("dinomaly", **settings).fit(splits[0], progress=False)
