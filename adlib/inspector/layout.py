"""Layout: where the inspector's parts stand. Left the pictures and what is said of the sample, right what is counted,
chosen and noted; what is seldom needed is folded away below that.

canvas.css gives both columns the height of the window (canvas.js measures it), so that nothing has to be scrolled to;
where the page is narrow, the columns stand one below the other.
"""

import ipywidgets as widgets

from adlib.inspector.controls import Controls


def arranged(control: Controls, strip: widgets.Widget, canvas: widgets.Widget) -> list[widgets.Widget]:
    """The whole inspector, in the order in which it is read and reached with the Tab key."""
    several = len(control.method.options) > 1
    main = _named(
        "main",
        _row(control.previous, control.next, control.position, control.sort, control.status),
        strip,
        canvas,
        _named("facts", control.sample, control.sample_scores),
    )
    side = _named(
        "side",
        _section(
            "Decision",
            *([_row(control.method, control.alone)] if several else []),
            _row(control.threshold, control.threshold_exact),
            control.histogram,
            control.confusion,
        ),
        _section(
            "Filter",
            _named(
                "pairs", control.filter_outcome, control.filter_category, control.filter_defect, control.filter_mark
            ),
            control.filter_score,
            _row(control.filter_disagree, control.filter_suspected),
            aside=control.filter_clear,
        ),
        _section(
            "Review note",
            control.note_mark,
            control.note_text,
            _row(control.note_theirs, control.note_mine, control.note_both),
            control.note_path,
            aside=control.note_save,
        ),
        _folds(
            {
                "All methods": [control.methods] if several else [],
                "Picture": [
                    _row(control.ground_truth, control.own_mask),
                    control.mask_follows,
                    control.mask_threshold,
                    control.opacity,
                    control.palette,
                    control.scale,
                    control.level,
                    control.width,
                    _row(control.window_auto, control.window_full, control.full_resolution),
                ],
                "Images that have moved": [control.root],
            }
        ),
    )
    return [_named("workplace", main, side)]


def _named(name: str, *children: widgets.Widget) -> widgets.Box:
    """A box that canvas.css arranges, of the class `adlib-` and its name."""
    box = widgets.Box(children)
    box.add_class(f"adlib-{name}")
    return box


def _row(*children: widgets.Widget) -> widgets.Box:
    """Controls side by side, wrapped where there is no room."""
    return _named("row", *children)


def _section(title: str, *children: widgets.Widget, aside: widgets.Widget | None = None) -> widgets.Box:
    """Controls under a heading, and one beside the heading."""
    heading = widgets.HTML(f"<b>{title}</b>")
    return _named("section", _named("heading", heading, *([aside] if aside else [])), *children)


def _folds(folds: dict[str, list[widgets.Widget]]) -> widgets.Accordion:
    """Closed folds, those that have anything in them."""
    folds = {title: children for title, children in folds.items() if children}
    made = widgets.Accordion(
        [_named("fold", *children) for children in folds.values()], titles=list(folds), selected_index=None
    )
    made.add_class("adlib-folds")
    return made
