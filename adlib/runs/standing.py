"""Which numbers of a run stand for something, by what its method needs and gives: the index, lists, menus ask here."""

from collections import Counter

from adlib.code_version import code_text
from adlib.models import list_models, model_class
from adlib.runs.record import code_of
from adlib.runs.run import Run


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


def other_code(record: dict, run: Run) -> str:
    """The code that a record is of, where it is another than would do the run now; "" where it is the same.

    A run's key does not cover its code, so that a finished one stands whatever has been mended, or edited, since.
    """
    made, now = (code_text(code) for code in (record.get("code", {}), code_of(run)))
    return made if made != now else ""


def done_before(record: dict, run: Run) -> str:
    """A sentence on a run that was asked for and was finished already: that nothing was computed, and whether other
    code than that which runs now would have.
    """
    ended = record.get("ended", "")[:16].replace("T", " ")
    said = f"Done before, until {ended} UTC: nothing was computed anew."
    if made := other_code(record, run):
        said += (
            f" Its numbers are of adlib {made}; this is adlib {code_text(code_of(run))}, which may give others: "
            f"`adlib runs {record['key']} --rerun`, with the same --out, does it again."
        )
    return said


def of_other_code(pairs: list[tuple[dict, Run]]) -> str:
    """A sentence on the records of finished runs that are of other code than now does them; "" where none is.

    pairs: of a record and its run.
    """
    found = Counter(filter(None, (other_code(record, run) for record, run in pairs)))
    if not found:
        return ""
    listed = "; ".join(f"adlib {made} ({count})" for made, count in sorted(found.items()))
    return (
        f"{sum(found.values())} of {len(pairs)} runs were done before by other code than this, and not again: "
        f"{listed}. Their numbers may be others: `adlib runs KEY --rerun` does them again."
    )
