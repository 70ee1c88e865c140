"""The note editor: mark and text of the current sample, saved at every change."""

from collections.abc import Callable
from html import escape

import pandas as pd

from adlib.errors import InputError
from adlib.inspector.controls import EVERY, Controls
from adlib.inspector.notes import Note, NoteConflict, ReviewNotes
from adlib.inspector.tables import download_link

CHOICES = ("note_theirs", "note_mine", "note_both")


class NoteEditor:
    """Behaviour of the controls `note_...` and `filter_mark`. saved: called after every change of the notes.

    Where somebody else has changed the note meanwhile, both are shown and the buttons CHOICES appear; nothing is saved
    until one of them is pressed, and what was typed waits, also while other samples are looked at.
    """

    def __init__(self, controls: Controls, notes: ReviewNotes, saved: Callable[[], None]):
        self.controls, self.notes, self._saved = controls, notes, saved
        self._sample: pd.Series | None = None
        self._seen = Note("", "")  # what the fields held when the sample was shown
        self._conflicts: dict[str, NoteConflict] = {}  # by image
        for field in (controls.note_mark, controls.note_text):
            field.observe(lambda _: self.save(), "value")
        controls.note_save.on_click(lambda _: self.save())
        for name in CHOICES:
            if button := getattr(controls, name, None):
                button.on_click(lambda _, name=name: self.resolve(name.removeprefix("note_")))
        self._offer_choice(None)

    def show(self, sample: pd.Series | None) -> None:
        """Put a sample's note into the fields; None empties and disables them."""
        control, self._sample = self.controls, None  # no sample: what the fields report now is no change of a note
        self._seen = Note("", "") if sample is None else self.notes.get(sample["image"])
        conflict = None if sample is None else self._conflicts.get(sample["image"])
        control.note_mark.value, control.note_text.value = conflict.mine if conflict else self._seen
        for field in (control.note_mark, control.note_text, control.note_save):
            field.disabled = sample is None
        self._sample = sample
        self._offer_choice(conflict)
        self._say()

    def save(self) -> None:
        """Write mark and text of the sample to the notes' file; both empty delete its note."""
        wanted = Note(self.controls.note_mark.value.strip(), self.controls.note_text.value.strip())
        if self._sample is not None and wanted != self._seen:
            self._put(wanted, self._seen)

    def resolve(self, choice: str) -> None:
        """End a conflict: "theirs" leaves the other note, "mine" writes over it, "both" joins the texts."""
        conflict = None if self._sample is None else self._conflicts.pop(self._sample["image"], None)
        if conflict is None:
            return
        theirs, mine = conflict.theirs, Note(self.controls.note_mark.value, self.controls.note_text.value)
        joined = "\n".join(dict.fromkeys(filter(None, (theirs.text, mine.text))))
        both = Note(" / ".join(dict.fromkeys(filter(None, (theirs.mark, mine.mark)))), joined)
        self._put({"theirs": theirs, "mine": mine, "both": both}[choice], theirs)
        if self._sample["image"] not in self._conflicts:
            self.show(self._sample)

    def _put(self, wanted: Note, seen: Note) -> None:
        try:
            self.notes.put(self._sample, *wanted, seen=seen)
        except NoteConflict as conflict:
            self._conflicts[self._sample["image"]] = conflict
            self._offer_choice(conflict)
            self._say()
            return
        except (OSError, InputError) as error:
            self._say(f"The note is not saved: {error}. Name another file with notes=.")
            return
        self._seen = self.notes.get(self._sample["image"])
        self._conflicts.pop(self._sample["image"], None)
        self._offer_choice(None)
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

    def _offer_choice(self, conflict: NoteConflict | None) -> None:
        for name in CHOICES:
            if button := getattr(self.controls, name, None):
                button.layout.display = None if conflict else "none"

    def _say(self, problem: str = "") -> None:
        number = len(self.notes)
        text = f"{number} {'note' if number == 1 else 'notes'} in <code>{escape(str(self.notes.path))}</code>"
        if number:
            text += f" · {download_link(self.notes.csv(), self.notes.path.name)}"
        if problem:
            text = f'<b role="alert">{escape(problem)}</b><br>{text}'
        conflict = None if self._sample is None else self._conflicts.get(self._sample["image"])
        if conflict:
            text = f"{_both(conflict)}{text}"
        self.controls.note_path.value = text


def _both(conflict: NoteConflict) -> str:
    """Both notes, one above the other."""
    theirs = ": ".join(filter(None, conflict.theirs)) or "(deleted)"
    mine = ": ".join(filter(None, conflict.mine)) or "(deleted)"
    return (
        '<div role="alert"><b>Not saved: somebody else has changed this note meanwhile. Which one is to stay?</b>'
        f"<dl><dt>theirs</dt><dd>{escape(theirs)}</dd><dt>yours</dt><dd>{escape(mine)}</dd></dl></div>"
    )
