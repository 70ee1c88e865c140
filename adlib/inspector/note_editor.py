"""The note editor: mark and text of the current sample, saved at every change."""

from collections.abc import Callable
from html import escape

import pandas as pd

from adlib.errors import InputError
from adlib.inspector.controls import EVERY, Controls
from adlib.inspector.notes import ReviewNotes
from adlib.inspector.tables import download_link


class NoteEditor:
    """Behaviour of the controls `note_...` and `filter_mark`. saved: called after every change of the notes."""

    def __init__(self, controls: Controls, notes: ReviewNotes, saved: Callable[[], None]):
        self.controls, self.notes, self._saved = controls, notes, saved
        self._sample: pd.Series | None = None
        for field in (controls.note_mark, controls.note_text):
            field.observe(lambda _: self.save(), "value")
        controls.note_save.on_click(lambda _: self.save())

    def show(self, sample: pd.Series | None) -> None:
        """Put a sample's note into the fields; None empties and disables them."""
        control, self._sample = self.controls, None  # no sample: what the fields report now is no change of a note
        mark, text = ("", "") if sample is None else self.notes.get(sample["image"])
        control.note_mark.value, control.note_text.value = mark, text
        for field in (control.note_mark, control.note_text, control.note_save):
            field.disabled = sample is None
        self._sample = sample
        self._say()

    def save(self) -> None:
        """Write mark and text of the sample to the notes' file; both empty delete its note."""
        wanted = self.controls.note_mark.value.strip(), self.controls.note_text.value.strip()
        if self._sample is None or wanted == self.notes.get(self._sample["image"]):
            return
        try:
            self.notes.put(self._sample, *wanted)
        except (OSError, InputError) as error:
            self._say(f"The note is not saved: {error}. Name another file with notes=.")
            return
        self._say()
        self._saved()

    def offer_marks(self) -> None:
        """Let the filter offer the marks that are in use; its choice stays while there is such a mark."""
        choice, marks = self.controls.filter_mark, sorted(set(self.notes.marks().values()))
        options = (("all", EVERY), *((mark or "without a mark", mark) for mark in marks))
        if choice.options != options:
            wanted = choice.value
            choice.options = options
            choice.value = wanted if wanted in marks else EVERY

    def _say(self, problem: str = "") -> None:
        number = len(self.notes)
        text = f"{number} {'note' if number == 1 else 'notes'} in <code>{escape(str(self.notes.path))}</code>"
        if number:
            text += f" · {download_link(self.notes.csv(), self.notes.path.name)}"
        if problem:
            text = f'<b role="alert">{escape(problem)}</b><br>{text}'
        self.controls.note_path.value = text
