"""Which adlib made the numbers, with whose settings: said wherever it was not one clean state, or not the papers'."""

from collections import Counter
from collections.abc import Iterable

from adlib.runs.environment import code_text

NAMED = 3  # runs of a sentence
PAPERS = "paper"  # the profile that leaves a paper's settings as they are


def record_code(record: dict) -> str:
    """The state of adlib that made a record: version, commit, whether files differed from it."""
    return code_text(record.get("code", {}))


def code_sentence(states: Iterable[str]) -> str:
    """A sentence about the states of adlib behind some numbers, one text per number or run; "" for one clean state."""
    found = Counter(states)
    if not found or (len(found) == 1 and not any(word in next(iter(found)) for word in ("uncommitted", "unknown"))):
        return ""
    listed = "; ".join(f"{state} ({count})" if len(found) > 1 else state for state, count in sorted(found.items()))
    mixed = f"{len(found)} states of adlib, which may differ: " if len(found) > 1 else "adlib "
    return f"Our numbers come from {mixed}{listed}."


def profile_sentence(names: Iterable[str]) -> str:
    """Whose settings runs of these profiles have, in a sentence; "" where they are the papers'."""
    others = sorted(set(names) - {PAPERS, ""})
    if not others:
        return ""
    return (
        f"Profile {' and '.join(others)}: its budgets, image sizes and other settings take the place of the papers'; "
        "the page of a run lists those of the run."
    )


def unsealed_sentence(titles: list[str]) -> str:
    """What finished runs whose records carry no checksum are worth, in a sentence; "" for none."""
    if not titles:
        return ""
    number = "1 record carries" if len(titles) == 1 else f"{len(titles)} records carry"
    named = "; ".join(titles[:NAMED]) + f" and {len(titles) - NAMED} more" * (len(titles) > NAMED)
    return f"{number} no checksum, as older versions left them: an edit would not be noticed. {named}."
