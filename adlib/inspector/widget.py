"""The inspector's widget: what its controls do."""

from contextlib import contextmanager
from dataclasses import replace
from html import escape

import ipywidgets as widgets
import numpy as np

from adlib.errors import InputError
from adlib.inspector import panels, render, tables
from adlib.inspector.canvas import Canvas, Strip
from adlib.inspector.contact_sheet import contact_sheet
from adlib.inspector.controls import EVERY, Controls, limit, moved
from adlib.inspector.decisions import Decisions
from adlib.inspector.histogram import score_histogram
from adlib.inspector.joined import Joined
from adlib.inspector.layout import arranged
from adlib.inspector.note_editor import NoteEditor
from adlib.inspector.notes import ReviewNotes, notes_file
from adlib.inspector.selection import (
    OUTCOMES,
    decisions_differ,
    disagreement,
    in_order,
    score_ranks,
    suspicious_normals,
)
from adlib.inspector.soon import Soon
from adlib.inspector.thumbnails import Thumbnails


class Inspector(widgets.VBox):
    """Samples of one or several predictions, one at a time. Made by `adlib.inspect`, which explains the arguments.

    joined: the predictions joined. controls: every control by name (adlib.inspector.controls lists them and their
    CSS classes). notes: the review notes. shown: indices of the samples that pass the filters, in order.
    index: the current sample, or None if no sample passes. decisions: thresholds and outcomes of every method.
    """

    def __init__(self, predictions, notes=None, root=None, threshold=None):
        self.joined = Joined(predictions, root)
        self.notes = ReviewNotes(notes if notes is not None else notes_file(self.joined.folders))
        labels, scores = self.joined.labels, self.joined.scores
        self.decisions = Decisions(self.joined, threshold)
        self._ranks, self._spread = score_ranks(scores), disagreement(scores)
        self._suspected = suspicious_normals(labels, scores)
        self._look = panels.Look()
        self._kind: tuple | None = None  # of the current image, once it is drawn
        self._windows: dict[tuple, tuple[float, float]] = {}  # the reviewer's, for images of a kind
        self._thumbnails = Thumbnails(self.joined)
        self._quiet = False
        self.shown, self.index = np.arange(len(labels)), 0

        table = self.joined.samples
        defects = sorted(set(table["defect"]))
        self.controls = Controls(self.joined.names, sorted(set(table["category"])), defects)
        self.canvas, self.strip = Canvas(), Strip()
        self._draw_soon = Soon(self.draw, 0.03)
        self._strip_soon = Soon(self._draw_strip, 0.01)
        super().__init__(arranged(self.controls, self.strip, self.canvas))
        self.add_class("adlib-inspector")
        self._seen = False  # by a browser: without one nothing is drawn, and nothing is stored in the notebook
        self.controls.root.value = "" if root is None else str(root)
        self._connect()
        self._editor = NoteEditor(self.controls, self.notes, self._noted)
        self._editor.offer_marks()
        self._focus()

    def _connect(self) -> None:
        control = self.controls
        control.previous.on_click(lambda _: self.step(-1))
        control.next.on_click(lambda _: self.step(1))
        self._watch(self._jump, control.position)
        self._watch(self._select, control.sort, *control.filters().values())
        control.filter_clear.on_click(lambda _: self.show_all())
        self._watch(self._focus, control.method)
        self._watch(self._slide, control.threshold)
        self._watch(lambda: self.set_threshold(control.threshold_exact.value), control.threshold_exact)
        self._watch(self._mask_follows, control.mask_follows)
        self._watch(self._mask_threshold, control.mask_threshold)
        drawn = (control.alone, control.ground_truth, control.own_mask, control.opacity, control.palette, control.scale)
        self._watch(self._draw_soon, *drawn, control.full_resolution)
        self._watch(self._window, control.level, control.width)
        control.window_auto.on_click(lambda _: self._fit_window(render.auto_window))
        control.window_full.on_click(lambda _: self._fit_window(render.full_window))
        self._watch(self._move, control.root)
        self.canvas.on_msg(self._from_browser)
        self.strip.on_msg(self._from_browser)

    def _watch(self, action, *controls) -> None:
        """Call `action` when one of the controls changes, unless we changed it ourselves."""

        def changed(change):
            if not self._quiet:
                action()

        for control in controls:
            control.observe(changed, "value")

    @contextmanager
    def _silently(self):
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _from_browser(self, _, content: dict, buffers) -> None:
        if content.get("ready"):
            self._seen = True
            self.draw()
        elif "step" in content:
            self.step(int(content["step"]))
        elif "go" in content:
            self.go(int(content["go"]))
        elif "outcome" in content:
            self.show_outcome(str(content["outcome"]))

    # Which sample

    @property
    def method(self) -> int:
        """Number of the method in focus."""
        return self.controls.method.value

    @property
    def position(self) -> int:
        """Place of the current sample in the list of those shown, from 0; -1 if none is."""
        return -1 if self.index is None else int(np.flatnonzero(self.shown == self.index)[0])

    def step(self, by: int) -> None:
        """Go on by so many samples; at the ends of the list nothing happens."""
        if self.index is not None:
            self.go(self.position + by)

    def go(self, position: int) -> None:
        """Show the sample at a place of the list, counted from 0; beyond an end the last one there."""
        if len(self.shown):
            self.index = int(self.shown[np.clip(position, 0, len(self.shown) - 1)])
        self._describe()

    def show_all(self) -> None:
        """Take all filters away."""
        with self._silently():
            self.controls.reset_filters()
        self._select()

    def show_outcome(self, outcome: str) -> None:
        """Narrow the list to one outcome, "TP" ..., of the method in focus; from that one alone, widen it to all."""
        choice = self.controls.filter_outcome
        if outcome in OUTCOMES:
            choice.value = tuple(OUTCOMES) if choice.value == (outcome,) else (outcome,)

    def _jump(self) -> None:
        self.go(self.controls.position.value - 1)

    def _select(self) -> None:
        """Apply filters and order; the current sample stays if it passes."""
        control, samples = self.controls, self.joined.samples
        scores = self.joined.scores[:, self.method]
        keep = np.isin(self.decisions.outcomes(self.method), control.filter_outcome.value)
        marked = samples["image"].map(self.notes.marks())
        for values, choice in (
            (samples["category"], control.filter_category),
            (samples["defect"], control.filter_defect),
            (marked, control.filter_mark),
        ):
            if choice.value != EVERY:
                keep &= (values == choice.value).to_numpy(bool)
        low, high = control.filter_score.value
        keep &= (scores >= low) & (scores <= high)
        if control.filter_disagree.value:
            keep &= decisions_differ(self.joined.scores, self.decisions.thresholds)
        if control.filter_suspected.value:
            keep &= self._suspected
        areas = None
        if control.sort.value.startswith("area"):
            control.status.value = "Reading all masks for their areas, once …"
            areas = self.joined.areas
        order = in_order(control.sort.value, scores, self._spread, areas)
        self.shown = order[keep[order]]
        if not len(self.shown):
            self.index = None
        elif self.index is None or not keep[self.index]:
            self.index = int(self.shown[0])
        self._describe()

    # Decisions

    def set_threshold(self, value: float, method: int | None = None) -> None:
        """Set the threshold of the image score, of the method in focus if none is named. Any finite number."""
        self.decisions.set(self.method if method is None else method, value)
        self._decide()
        self._select()

    def _slide(self) -> None:
        slider = self.controls.threshold
        # A browser moves a slider to its next step as soon as it shows it: nobody has asked for that.
        if moved(slider, self.decisions.thresholds[self.method]):
            self.set_threshold(slider.value)

    def _focus(self) -> None:
        """Another method is in focus: its scores set the ranges of the sliders."""
        control, scores = self.controls, self.joined.scores[:, self.method].astype(float)
        low, high = scores.min(), scores.max()
        room = 0.02 * (high - low) or 0.5
        with self._silently():
            limit(control.threshold, low - room, high + room, self.decisions.thresholds[self.method])
            limit(control.filter_score, low - room, high + room, (low - room, high + room))
            scale = self.decisions.scales[self.method]
            if scale:
                own = self.decisions.own[self.method]
                limit(control.mask_threshold, scale[0], scale[1] + (scale[1] - scale[0]), own)
        self._decide()
        self._select()

    def _mask_follows(self) -> None:
        self.decisions.follows[self.method] = self.controls.mask_follows.value
        self._decide()
        self._draw_soon()

    def _mask_threshold(self) -> None:
        slider = self.controls.mask_threshold
        if moved(slider, self.decisions.own[self.method]):
            self.decisions.own[self.method] = slider.value
            self._decide()
            self._draw_soon()

    def _decide(self) -> None:
        """Bring the decision's numbers up to date; they are quick, so they follow a slider at once."""
        control, method, decisions = self.controls, self.method, self.decisions
        with self._silently():
            control.threshold.value = control.threshold_exact.value = decisions.thresholds[method]
            control.mask_follows.value = decisions.follows[method]
            control.mask_threshold.value = decisions.own[method]
        control.mask_follows.disabled = not decisions.masks[method]
        control.mask_threshold.disabled = not decisions.masks[method] or decisions.follows[method]
        names = self.joined.names
        control.confusion.value = tables.confusion_table(decisions.metrics(method), decisions.is_oracle(method))
        if len(names) > 1:
            metrics = {name: decisions.metrics(number) for number, name in enumerate(names)}
            control.methods.value = tables.methods_table(metrics, decisions.thresholds, method)

    # Texts of the current sample

    def _describe(self) -> None:
        """Texts, fields and buttons of the current sample at once, its pictures a moment later."""
        control, position = self.controls, self.position
        number = len(self.shown)
        with self._silently():
            control.position.min, control.position.max = min(1, number), max(1, number)
            control.position.value = position + 1
        control.position.disabled = not number
        control.previous.disabled, control.next.disabled = position <= 0, position in (-1, number - 1)
        self._say()
        self._editor.show(None if self.index is None else self.joined.samples.iloc[self.index])
        current = None if self.index is None else self.joined.scores[self.index, self.method]
        control.histogram.value = score_histogram(
            self.joined.labels,
            self.joined.scores[:, self.method],
            self.decisions.thresholds[self.method],
            current=current,
        )
        if self.index is None:
            self.controls.sample.value = self.controls.sample_scores.value = ""
        else:
            sample = self.joined.samples.iloc[self.index]
            facts = {"image": self.joined.path(self.index), "label": panels.LABELS[sample["label"]]}
            facts |= {name: sample[name] for name in ("category", "group", "defect", "split")}
            facts |= {"mask": self.joined.path(self.index, "mask") or "none"}
            more = [name for name in sample.index if name not in {*facts, "label"}]
            self.controls.sample.value = tables.sample_table(facts | {name: sample[name] for name in more})
            called = [decision.outcome for decision in self.decisions.of(self.index)]
            self.controls.sample_scores.value = tables.score_table(
                self.joined.names, self.joined.scores[self.index], self._ranks[self.index], called
            )
        if self._seen:
            self._draw_soon()

    def _say(self, problem: str = "") -> None:
        total, number = len(self.joined), len(self.shown)
        text = f"of {number}" + (f" shown, {total} in all" if number < total else "")
        if self.joined.left_out:
            text += f"; {self.joined.left_out} images that not every method has are left out"
        problem = f'<br><b role="alert">{escape(problem)}</b>' if problem else ""
        self.controls.status.value = f'<span role="status">{text}</span>{problem}'

    def _noted(self) -> None:
        """The notes have changed: the filter knows their marks, the strip shows which samples have one."""
        with self._silently():
            self._editor.offer_marks()
        self._select()

    def _move(self) -> None:
        try:
            self.joined.move(self.controls.root.value)
        except InputError as error:
            self._say(str(error))
            return
        self._thumbnails.forget()
        panels.forget()
        self._describe()

    # Pictures

    def _window(self) -> None:
        control, (low, high) = self.controls, self._levels()
        level, width = control.level.value, max(1.0, control.width.value)
        if self._kind and (moved(control.level, (low + high) / 2) or moved(control.width, high - low)):
            self._windows[self._kind] = (level - width / 2, level + width / 2)
            self._draw_soon()

    def _fit_window(self, measure) -> None:
        if self.index is not None and self._kind:
            self._windows[self._kind] = measure(self.joined.image(self.index))
            self._choose_window()
            self._show_window()
            self._draw_soon()

    def _show_window(self) -> None:
        """Level and width of the current grey levels on their sliders, which end where the file's type ends, or where
        a window that reaches farther does.
        """
        most, (low, high) = self._most(), self._levels()
        with self._silently():
            limit(self.controls.level, min(0.0, low), max(most, high), (low + high) / 2, step=0.5)
            limit(self.controls.width, 0.0, max(most, high - low), high - low, step=0.5)

    def _most(self) -> float:
        """The greatest value of the current file's type; before there is one, of 8 bits."""
        return float((1 << (self._kind[0] if self._kind else 8)) - 1)

    def _levels(self) -> tuple[float, float]:
        """The grey levels that are shown as black and white."""
        return self._windows.get(self._kind) or self._look.window or (0.0, self._most())

    def draw(self) -> None:
        """Draw the current sample's pictures now, and the strip after them."""
        self._draw_panels()
        self._strip_soon()

    def _draw_panels(self) -> None:
        control = self.controls
        methods = [self.method] if control.alone.value else list(range(len(self.joined.names)))
        self._look = replace(
            self._look,
            truth=control.ground_truth.value,
            decided=control.own_mask.value,
            opacity=control.opacity.value,
            palette=control.palette.value,
            longest=None if control.full_resolution.value else render.longest_side(1 + len(methods)),
        )
        if self.index is None:
            self._leave_empty("No sample passes all filters; “show all” takes them away.")
            return
        try:
            self._choose_window()
            decisions = self.decisions.of(self.index, shared_scale=control.scale.value == "shared")
            drawn, maps = panels.draw_sample(self.joined, self.index, self._look, decisions, methods)
            values = panels.pointer_values(self.joined, self.index, self._look, maps)
        except InputError as error:
            self._leave_empty(f"{error} If the images have moved, name their new folder in the field “images in”.")
            return
        with self.canvas.hold_sync():
            self.canvas.colour_bar = render.png(render.colour_bar(self._look.palette))
            self.canvas.values, self.canvas.panels, self.canvas.message = values, drawn, ""

    def _leave_empty(self, message: str) -> None:
        with self.canvas.hold_sync():
            self.canvas.values, self.canvas.panels, self.canvas.message = {}, [], message

    def _choose_window(self) -> None:
        """Images of each kind have a window of their own: the reviewer's, or else what the method saw."""
        levels = self.joined.window(self.index)
        kind, before = panels.kind_of(self.joined.image(self.index), levels), self._kind
        self._look, self._kind = replace(self._look, window=self._windows.get(kind, levels)), kind
        if kind != before:
            self._show_window()

    def _draw_strip(self) -> None:
        first, near = self._thumbnails.near(self.shown, self.position)
        more = self._thumbnails.make(near)
        results, images, marks = self.decisions.outcomes(self.method), self.joined.samples["image"], self.notes.marks()
        with self.strip.hold_sync():
            self.strip.current = max(0, self.position)
            self.strip.thumbnails = [
                {
                    "position": position,
                    "jpeg": self._thumbnails.get(index),
                    "label": f"{results[index]}{' ✎' if images.iat[index] in marks else ''}",
                    "alt": f"Sample {position + 1}, {OUTCOMES[results[index]]}: {images.iat[index]}",
                }
                for position, index in enumerate(near, start=first)
            ]
        if more:
            self._strip_soon()

    # Without a kernel

    def contact_sheet(self) -> str:
        """The most telling samples as one piece of HTML: what is left of the widget in a page without a kernel."""
        return contact_sheet(self.joined, self.decisions, self._look, self._windows)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        bundle = super()._repr_mimebundle_(include=include, exclude=exclude)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/html"] = self.contact_sheet()
        data["text/plain"] = repr(self)
        return bundle

    def __repr__(self) -> str:
        return f"Inspector: {len(self.joined)} samples, {', '.join(self.joined.names)}"
