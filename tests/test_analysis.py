"""The papers' measurements on data, on cases that can be checked by hand and on real X-rays."""

import numpy as np
import pandas as pd
import pytest
from conftest import write

from adlib import InputError, analysis, figures, load_samples
from adlib.images import read_image
from adlib.samples import make_samples


@pytest.fixture
def plate(tmp_path) -> pd.DataFrame:
    """A plate of grey 100, its left half 80, with two defects of grey 120: 2x2 pixels and 4x4 pixels."""
    image = np.full((40, 40), 100, np.uint8)
    image[:, :20] = 80
    mask = np.zeros((40, 40), np.uint8)
    mask[30:32, 30:32] = mask[10:14, 30:34] = 1
    image[mask > 0] = 120
    rows = [
        {
            "image": str(write(tmp_path / "plate.png", image)),
            "mask": str(write(tmp_path / "mask.png", mask)),
            "label": 1,
            "category": "plate",
        },
        {"image": str(write(tmp_path / "plain.png", np.full((10, 10), 50, np.uint8))), "category": "plate"},
    ]
    return make_samples(rows, tmp_path)


def test_histogram_counts_every_pixel(plate):
    histogram = analysis.grey_histogram(plate)
    assert {level: histogram[level] for level in np.flatnonzero(histogram)} == {50: 100, 80: 800, 100: 780, 120: 20}
    assert analysis.share_between(histogram, 80, 100) == (800 + 780) / 1700
    assert analysis.grey_histogram(plate, defects_only=True).nonzero()[0].tolist() == [120]
    assert np.isnan(analysis.share_between(np.zeros(256, int), 0, 255))


def test_16_bit_grey_is_on_the_8_bit_scale(tmp_path):
    path = write(tmp_path / "deep.png", np.full((4, 4), 100 * 257, np.uint16))
    assert analysis.read_grey(path).tolist() == np.full((4, 4), 100.0).tolist()


def test_a_window_says_which_values_are_black_and_white(tmp_path):
    """12 bits in a 16-bit file: without it the whole picture is darker than grey level 16."""
    image, mask = np.full((4, 4), 1638, np.uint16), np.zeros((4, 4), np.uint8)
    image[:2, :2], mask[:2, :2] = 2457, 1
    files = {"image": write(tmp_path / "i.png", image), "mask": write(tmp_path / "m.png", mask)}
    samples = make_samples([{name: str(file) for name, file in files.items()} | {"label": 1}], "test")
    window = (0, 4095)
    assert analysis.grey_histogram(samples).nonzero()[0].tolist() == [6, 10]
    assert analysis.grey_histogram(samples, window=window).nonzero()[0].tolist() == [102, 153]
    assert analysis.grey_histogram(samples, defects_only=True, window=window).nonzero()[0].tolist() == [153]
    assert analysis.brightness(samples, window)["mean"].item() == pytest.approx(114.75, abs=0.01)
    # black is not 0: (2457 - 819) / (1638 - 819) - 1
    assert analysis.local_contrast(samples, window=(819, 4095))["contrast"].item() == pytest.approx(1, abs=1e-3)
    assert analysis.grey_peak(*files.values(), window=window)[0].max() == pytest.approx(153, abs=0.01)
    with pytest.raises(InputError, match="low < high"):
        analysis.grey_histogram(samples, window=(4095, 0))


def test_local_contrast_with_both_backgrounds(plate):
    complement = analysis.local_contrast(plate)["contrast"].item()
    background = (800 * 80 + 780 * 100) / 1580
    assert complement == pytest.approx((120 - background) / background)
    ring = analysis.local_contrast(plate, "ring", ring=3)["contrast"].item()
    assert ring == pytest.approx(0.2)
    with pytest.raises(InputError, match="must be 'complement' or 'ring'"):
        analysis.local_contrast(plate, "sky")


def test_areas_per_component_and_per_image(plate):
    assert sorted(analysis.defect_areas(plate)["area"]) == [4, 16]
    assert analysis.defect_areas(plate, "image")[["area", "ratio"]].to_numpy().tolist() == [[20, 20 / 1600]]
    assert analysis.defect_areas(plate)["aspect"].tolist() == pytest.approx([1, 1])
    with pytest.raises(InputError, match="must be 'component' or 'image'"):
        analysis.defect_areas(plate, "pixel")


def test_aspect_of_a_slanted_line_and_instances_per_image(tmp_path):
    mask = np.eye(40, dtype=np.uint8)
    mask[35:, :5] = 1
    image = write(tmp_path / "i.png", np.zeros((40, 40), np.uint8))
    samples = make_samples([{"image": str(image), "mask": str(write(tmp_path / "m.png", mask)), "label": 1}], "test")
    line, square = analysis.defect_areas(samples).sort_values("aspect")["aspect"].iloc[::-1]
    assert line == pytest.approx(39 * 2**0.5 + 1, rel=1e-3)  # one pixel wide: its short side counts as 0 + 1
    assert square == pytest.approx(1)
    assert analysis.defects_per_image(samples).to_numpy().tolist() == [[1, 2, 2, 1]]


def test_a_defective_image_of_an_empty_mask_has_no_region_and_counts(tmp_path):
    rows = []
    for name, size in (("line", 3), ("none", 0)):
        mask = np.zeros((16, 16), np.uint8)
        mask[4, 4 : 4 + size] = 1
        image, file = (write(tmp_path / f"{name}{end}.png", np.zeros((16, 16), np.uint8)) for end in ("", "_mask"))
        file.write_bytes(write(tmp_path / "m.png", mask).read_bytes())
        rows.append({"image": str(image), "mask": str(file), "label": 1, "defect": name})
    samples = make_samples(rows, "test")
    assert analysis.defects_per_image(samples).to_numpy().tolist() == [[2, 0, 1, 2]]
    assert analysis.largest_defect_of(samples)["image"].endswith("line.png")
    with pytest.raises(InputError, match=r"No mask of .* shows a defect"):
        analysis.largest_defect_of(samples.iloc[1:])


def test_the_ring_reaches_as_far_as_it_says(tmp_path):
    picture = np.full((41, 41), 100, np.uint8)
    y, x = np.ogrid[-20:21, -20:21]
    picture[y**2 + x**2 > 10**2] = 200  # farther than ten pixels from the defect in the middle
    picture[20, 20] = 50
    mask = np.zeros((41, 41), np.uint8)
    mask[20, 20] = 1
    image, file = write(tmp_path / "i.png", picture), write(tmp_path / "m.png", mask)
    samples = make_samples([{"image": str(image), "mask": str(file), "label": 1}], "test")
    assert analysis.local_contrast(samples, "ring", ring=10)["mean_background"].item() == 100


def test_brightness_of_images(plate):
    table = analysis.brightness(plate).set_index("split")
    assert table["mean"].tolist() == pytest.approx([50, (800 * 80 + 780 * 100 + 20 * 120) / 1600])
    assert table["spread"].iloc[0] == 0


def test_scales_under_both_readings():
    areas = pd.DataFrame({"category": ["a"] * 4 + ["b"], "area": [1, 8, 40, 100, 10]})
    assert analysis.defect_scales(areas, "1 % and 10 %")["count"].tolist() == [1, 2, 2]
    assert analysis.defect_scales(areas, "10 % and 50 %")["count"].tolist() == [3, 1, 1]
    assert analysis.defect_scales(areas, "10 % and 50 %", per_category=True)["count"].tolist() == [2, 1, 2]
    assert analysis.defect_scales(areas)["share"].sum() == pytest.approx(1)
    with pytest.raises(InputError, match="must be one of"):
        analysis.defect_scales(areas, "5 %")


def test_grey_peak_shows_the_largest_defect(plate):
    row = plate.iloc[1]  # plain.png sorts first
    grey, mask = analysis.grey_peak(row["image"], row["mask"])
    assert grey.shape == mask.shape == (12, 12)
    assert mask.sum() == 16
    assert (grey[mask] == 120).all()


def test_grey_peak_reads_the_mask_as_it_is_told(plate, tmp_path):
    row = plate.iloc[1]
    inverted = write(tmp_path / "inverted.png", (read_image(row["mask"]) == 0).astype(np.uint8))
    grey, mask = analysis.grey_peak(row["image"], inverted, mask_rule="dark")
    assert mask.sum() == 16 and (grey[mask] == 120).all()


def test_pictures_can_be_drawn(plate, tmp_path):
    """Every figure function returns a figure with something in it."""
    anomalous = plate.iloc[1]
    areas = analysis.defect_areas(plate)
    drawn = [
        figures.show_samples(plate),
        figures.plot_grey_histogram({"all": analysis.grey_histogram(plate)}, 50, 150),
        figures.plot_distribution({"component": areas}, "area", "area", log=True),
        figures.plot_shares({"one": analysis.defect_scales(areas)}),
        figures.show_defects(plate),
        figures.plot_brightness(analysis.brightness(plate)),
        figures.plot_grey_surface(anomalous["image"], *analysis.grey_peak(anomalous["image"], anomalous["mask"])),
    ]
    for number, figure in enumerate(drawn):
        figure.savefig(tmp_path / f"{number}.png")
        assert read_image(tmp_path / f"{number}.png").std() > 1


def test_real_castings_give_plausible_values(real, tmp_path):
    folder = real / "gdxray_castings"
    lines = ["image,mask,split"]
    for image in sorted((folder / "images").iterdir()):
        mask = folder / "masks" / image.name
        lines.append(f"{image},{mask if mask.is_file() else ''},test")
    (tmp_path / "castings.csv").write_text("\n".join(lines))
    samples = load_samples("folder", tmp_path / "castings.csv")
    assert samples["label"].sum() == 46

    histogram = analysis.grey_histogram(samples)
    assert histogram.sum() == 57 * 640 * 640
    assert 0.1 < analysis.share_between(histogram, 50, 150) < 1
    for background in ("complement", "ring"):
        contrast = analysis.local_contrast(samples, background)["contrast"]
        assert len(contrast) == 46
        assert contrast.abs().between(0, 2).all()
    areas = analysis.defect_areas(samples)
    assert 46 <= len(areas) <= 3 * 46
    assert areas["ratio"].between(1e-6, 0.1).all()
    for reading in analysis.SCALE_READINGS:
        assert analysis.defect_scales(areas, reading)["count"].sum() == len(areas)


def test_light_shift_compares_test_groups_with_all_training_images_of_their_category():
    rows = [("cloth", "a", "train", 100.0), ("cloth", "b", "train", 104.0), ("cloth", "c", "test", 110.0)]
    levels = pd.DataFrame(rows, columns=["category", "group", "split", "mean"])
    (found,) = analysis.light_shift(levels).itertuples()
    spread = 8**0.5  # of 100 and 104
    assert found.Index == ("cloth", "c")
    assert (found.train, found.test, found.spread) == (102, 110, pytest.approx(spread))
    assert found.shift == pytest.approx(8 / spread)


def test_image_sizes_are_the_extremes_per_category(tmp_path):
    shapes = {"a": (10, 20), "b": (12, 18), "c": (5, 6)}
    files = [str(write(tmp_path / f"{name}.png", np.zeros(shape, np.uint8))) for name, shape in shapes.items()]
    found = analysis.image_sizes(pd.DataFrame({"image": files, "category": ["x", "x", "y"]}))
    columns = ["height_min", "height_max", "width_min", "width_max"]
    assert found[columns].to_numpy().tolist() == [[10, 12, 18, 20], [5, 5, 6, 6]]


def test_found_and_published_stand_in_pairs():
    found = pd.DataFrame({"test_normal": [3], "train": [5]}, index=["A"])
    published = pd.DataFrame({"train": [50.0, 60.0], "test_normal": [30.0, 40.0], "other": [1, 1]}, index=["A", "B"])
    table = analysis.beside_published(found, published)
    pairs = [(name, side) for name in ("test normal", "train") for side in ("found", "published")]
    assert table.columns.tolist() == pairs
    assert table.loc["A"].tolist() == [3, 30, 5, 50] and table.astype(str).loc["A"].tolist() == ["3", "30", "5", "50"]
    assert table.loc["B", ("train", "published")] == 60 and pd.isna(table.loc["B", ("train", "found")])
