"""Controls: every button, field and slider of the inspector, labelled, with a tooltip and a stable CSS class.

The class of a control is `adlib-` and its name here with hyphens (`filter_outcome` is `.adlib-filter-outcome`), so that
style sheets and browser tests can rely on it. In the order in which they are read and reached with the Tab key:

find    previous next position sort status
sample  sample sample_scores
decide  method alone threshold threshold_exact histogram confusion methods
filter  filter_outcome filter_category filter_defect filter_mark filter_score filter_disagree filter_suspected
        filter_clear
note    note_mark note_text note_save note_path
draw    ground_truth own_mask mask_follows mask_threshold opacity palette scale level width window_auto window_full
        full_resolution root

Where each of them stands is said in layout.py.
"""

import ipywidgets as widgets

from adlib.inspector.notes import MARKS
from adlib.inspector.render import PALETTES
from adlib.inspector.selection import ORDERS, OUTCOMES, WRONG

EVERY = "*"  # value of a choice that narrows nothing (None would leave its field blank), shown as "all"
WIDE = {"width": "auto", "min_width": "0"}
MANY = 5  # methods: from here on their pictures would be stamps, and those of one are shown at first


class _Told:
    """A slider whose changes are told to the browser together (`limit`): first its ends, then its value, or the browser
    would cut the new value off at the old ends.
    """

    def send_state(self, key=None):
        super().send_state(sorted(key) if isinstance(key, set) else key)  # max, min, step, value


class _Slider(_Told, widgets.FloatSlider):
    pass


class _RangeSlider(_Told, widgets.FloatRangeSlider):
    pass


class Controls:
    """The controls as attributes, without behaviour. methods, categories, defects: what can be chosen."""

    def __init__(self, methods: list[str], categories: list[str], defects: list[str]):
        several = len(methods) > 1
        self.previous = self._button("previous", "◀ previous", "Previous sample (left arrow key)")
        self.next = self._button("next", "next ▶", "Next sample (right arrow key)")
        self.position = self._add(
            "position", widgets.BoundedIntText, "sample", "Number of the sample in the list", min=0, value=0, short=True
        )
        self.sort = self._add(
            "sort",
            widgets.Dropdown,
            "order",
            "Order of the list; scores are those of the method in focus, disagreement is the largest difference "
            "between the ranks that the methods give a sample",
            options=[(text, name) for name, text in ORDERS.items() if several or name != "disagreement"],
            value="stored",
        )
        self.status = self._text("status")

        self.sample, self.sample_scores = self._text("sample"), self._text("sample_scores")

        self.method = self._add(
            "method", widgets.Dropdown, "method", "The method that threshold, filters and order are about",
            options=[(name, index) for index, name in enumerate(methods)], value=0,
        )  # fmt: skip
        self.alone = self._check(
            "alone", "its map alone", "Show the map of this method alone, larger", len(methods) >= MANY
        )
        self.threshold = self._slider(
            "threshold", "threshold", "Scores from here on are called anomalous", readout=False
        )
        self.threshold_exact = self._add(
            "threshold_exact",
            widgets.FloatText,
            "exactly",
            "The same threshold as a number, to all its digits",
            step=None,
        )
        self.mask_follows = self._check(
            "mask_follows", "outline masks at the same threshold",
            "The dashed outline: where the anomaly map reaches the image's threshold, or one of its own", True,
        )  # fmt: skip
        self.mask_threshold = self._slider("mask_threshold", "for masks", "Map values from here on are outlined")
        self.confusion, self.methods = self._text("confusion"), self._text("methods")
        self.histogram = self._text("histogram")

        names = [(f"{code}: {text}", (code,)) for code, text in OUTCOMES.items()]
        self.filter_outcome = self._add(
            "filter_outcome", widgets.Dropdown, "outcome", "Decision of the method in focus at its threshold",
            options=[("all", tuple(OUTCOMES)), ("wrong: FP, FN", WRONG), *names],
        )  # fmt: skip
        self.filter_category = self._choice("filter_category", "category", "Samples of one category", categories)
        self.filter_defect = self._choice("filter_defect", "defect", "Samples of one type of defect", defects)
        self.filter_mark = self._choice("filter_mark", "marked", "Samples with a review note", [])
        self.filter_score = self._add(
            "filter_score", _RangeSlider, "scores", "Samples in a range of the focused method's scores",
            readout_format=".4g", continuous_update=True,
        )  # fmt: skip
        self.filter_disagree = self._check(
            "filter_disagree", "methods disagree", "Some methods call it anomalous and others do not", False
        )
        self.filter_disagree.disabled = not several
        self.filter_suspected = self._check(
            "filter_suspected", "suspected label errors",
            "Labelled normal, but scored above the median of the anomalous images by every method", False,
        )  # fmt: skip
        self.filter_clear = self._button("filter_clear", "show all", "Take all filters away")

        self.ground_truth = self._check("ground_truth", "ground truth (solid)", "Outline the marked defect", True)
        self.own_mask = self._check("own_mask", "mask (dashed)", "Outline where the map reaches its threshold", True)
        self.opacity = self._slider(
            "opacity", "heat map", "Opacity of the heat map", min=0, max=1, step=0.05, value=0.6
        )
        self.palette = self._add(
            "palette", widgets.Dropdown, "colours", "Palette of the heat map", options=list(PALETTES)
        )
        self.scale = self._add(
            "scale", widgets.Dropdown, "scale", "One colour scale for all images of a method, or the range of each map",
            options=[("shared by all images", "shared"), ("each image its own", "image")],
        )  # fmt: skip
        self.level = self._slider("level", "level", "Stored grey level in the middle of the shown range")
        self.width = self._slider("width", "width", "Shown range of stored grey levels, from black to white")
        self.window_auto = self._button("window_auto", "fit grey levels", "Show the range that 99 % of the pixels have")
        self.window_full = self._button("window_full", "all grey levels", "Show the whole range of the file's type")
        self.full_resolution = self._add(
            "full_resolution", widgets.ToggleButton, "full resolution", "Send every pixel of the image to the browser"
        )

        self.note_mark = self._add(
            "note_mark", widgets.Combobox, "mark", "What is special: choose a word or type your own",
            options=MARKS, placeholder="choose or type", continuous_update=False,
        )  # fmt: skip
        self.note_text = self._add(
            "note_text", widgets.Textarea, "note", "In your own words; saved when you leave the field", rows=2,
            continuous_update=False,
        )  # fmt: skip
        self.note_save = self._button("note_save", "save note", "Write mark and note to the file below")
        self.note_theirs = self._button("note_theirs", "keep theirs", "Leave the other reviewer's note as it is")
        self.note_mine = self._button("note_mine", "keep mine", "Write your note in the place of the other one")
        self.note_both = self._button("note_both", "keep both", "Write one text below the other")
        self.note_path = self._text("note_path")
        self.root = self._add(
            "root", widgets.Text, "images in", "If the images have moved: the folder where their old root lies now",
            continuous_update=False, placeholder="/new/root",
        )  # fmt: skip

    def filters(self) -> dict[str, widgets.Widget]:
        """The controls that narrow the list, by name."""
        return {name: control for name, control in vars(self).items() if name.startswith("filter_")}

    def reset_filters(self) -> None:
        """Let every sample pass."""
        for name, control in self.filters().items():
            if name == "filter_score":
                control.value = (control.min, control.max)
            elif name in ("filter_disagree", "filter_suspected"):
                control.value = False
            elif name != "filter_clear":
                control.index = 0

    def _add(self, name: str, kind: type, description: str, tooltip: str, short: bool = False, **traits):
        style = {} if kind is widgets.ToggleButton else {"style": {"description_width": "62px"}}
        layout = {"width": "140px"} if short else {"width": "auto"} if kind is widgets.ToggleButton else WIDE
        control = kind(description=description, tooltip=tooltip, layout=layout, **style, **traits)
        return _classed(control, name)

    def _slider(self, name: str, description: str, tooltip: str, **traits):
        return self._add(name, _Slider, description, tooltip, **{"readout_format": ".4g"} | traits)

    def _check(self, name: str, description: str, tooltip: str, value: bool):
        box = widgets.Checkbox(value, description=description, tooltip=tooltip, indent=False, layout={"width": "auto"})
        return _classed(box, name)

    def _choice(self, name: str, description: str, tooltip: str, values: list[str]):
        return self._add(
            name,
            widgets.Dropdown,
            description,
            tooltip,
            options=[("all", EVERY), *((str(v) or "none", v) for v in values)],
        )

    def _button(self, name: str, description: str, tooltip: str):
        return _classed(widgets.Button(description=description, tooltip=tooltip, layout={"width": "auto"}), name)

    def _text(self, name: str):
        return _classed(widgets.HTML(layout={"min_width": "0"}), name)


def _classed(control, name: str):
    control.add_class("adlib-" + name.replace("_", "-"))
    return control


def limit(slider, low: float, high: float, value, step: float | None = None) -> None:
    """Give a slider new ends, a thousand steps between them, and a value, which is moved between the ends.

    A browser answers every change with the value at its nearest step: told one by one, it would answer with the old
    value between the new ends, as if the reviewer had moved the slider there (`moved`).
    """
    low, high = float(low), float(max(high, low + 1e-6))
    with slider.hold_sync():
        slider.step = step or (high - low) / 1000
        if low > slider.max:
            slider.max, slider.min = high, low
        else:
            slider.min, slider.max = low, high
        slider.value = value


def moved(slider, value: float) -> bool:
    """Whether a slider stands elsewhere than at a value, as far as it can stand there: at a step, between its ends."""
    return abs(slider.value - min(max(value, slider.min), slider.max)) > 0.51 * slider.step
