"""The whole chain on real images, where they are at hand: bottles with ImageNet features."""

import pytest

from adlib import ImageSet, create_model, evaluate, load_samples
from adlib.samples import select


@pytest.mark.slow
def test_patchcore_finds_the_defects_of_real_bottles(real, resnet18_weights):
    samples = load_samples("mvtec_ad", real / "mvtec_ad", "bottle")
    train, test = (ImageSet(select(samples, split=split), size=256, crop=224) for split in ("train", "test"))
    settings = {"backbone": "resnet18.tv_in1k", "weights": str(resnet18_weights)}
    model = create_model("patchcore", **settings, coreset_ratio=0.01).fit(train, progress=False)
    metrics = evaluate(model.predict(test, progress=False))
    assert metrics["image_auroc"] >= 0.99
    assert metrics["pixel_auroc"] >= 0.97
    assert metrics["aupro"] >= 0.88
