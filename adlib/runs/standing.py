"""Which numbers of a run stand for something, by what its method needs and gives: the index, lists, menus ask here."""

from adlib.models import list_models, model_class


def dash(record: dict) -> str:
    """Why a finished run's numbers stand for nothing, "" where they do: "needs CLIP's weights", and its were random."""
    if (record.get("weights") or {}).get("kind") != "random":  # most are not, and need not load the method
        return ""
    method = record["run"]["method"]
    if method not in list_models():
        return ""
    needs = model_class(method).facts.needs
    return f"needs {needs}" if needs else ""


def compared(record: dict, metric: str) -> bool:
    """Whether a number of a finished run may stand beside others: not one of a run that lacked what it needs (`dash`),
    nor one of pixels where the method's maps outline nothing, or there are none (adlib.detector.Facts).
    """
    of_pixels = metric.startswith(("pixel_", "aupro", "pro"))
    return not dash(record) and (not of_pixels or judges_pixels(record["run"]["method"]))


def judges_pixels(method: str) -> bool:
    """Whether a method gives maps that outline defects (adlib.detector.Facts); of a plug-in that is gone nobody knows,
    and its runs' numbers stand.
    """
    facts = model_class(method).facts if method in list_models() else None
    return facts is None or (facts.maps and facts.outlines)


def taken_over(record: dict) -> str:
    """What a run took over from others, so that its seconds are short by it: "features of 12 images", "" for nothing.

    Images are pictures that another run had decoded.
    """
    shared = record.get("shared", {})
    features, images = shared.get("features_read"), shared.get("images_read")
    return ", ".join([f"features of {features} images"] * bool(features) + [f"{images} images"] * bool(images))
