"""Executed notebooks as pages: read with care, rendered without anything that runs, written anew when they differ."""

import hashlib
import hmac
import re
import secrets
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import adlib
from adlib.errors import InputError
from adlib.files import MEGABYTE, read_bytes, read_json, write_text
from adlib.report.harmless import harmless_html, picture_address, policy
from adlib.runs import environment

if TYPE_CHECKING:  # its import takes a third as long as torch's, and a run's kernel reads no notebook
    import nbformat

TEMPLATES = environment.REPOSITORY / "nbconfig" / "nbconvert"
LARGEST = 200 * MEGABYTE  # of a notebook


def read_notebook(file: Path) -> "nbformat.NotebookNode":
    """A notebook of format 4. Raises InputError, with the reason, for a damaged one, a link, a pipe, a folder."""
    import nbformat
    from nbformat.v4.rwbase import rejoin_lines

    content = read_json(file, LARGEST)
    if not isinstance(content, dict) or content.get("nbformat") != 4:
        raise InputError(f"{file} is no notebook of format 4.")
    cells = content.get("cells")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise InputError(f"{file} is no notebook: its cells are no list of objects.")
    notebook = nbformat.from_dict(content)
    try:
        nbformat.validate(notebook)
    except (nbformat.ValidationError, TypeError, KeyError, AttributeError) as error:  # it reads before it has checked
        said = (str(error).splitlines() or [""])[0]
        raise InputError(f"{file} is no notebook ({type(error).__name__}: {said[:200]}).") from error
    return rejoin_lines(notebook)


def render_notebook(source: Path, target: Path, home: str, title: str = "", lead: str = "") -> Path:
    """Render an executed notebook to one HTML file; left as it is if we made it of this very content.

    home: relative address of the index page. title: of the page, which then stands above the notebook's first heading;
    that heading if not given.
    lead: HTML of ours below the title: what the page has to say. If not given, the first thing that the notebook wants
    to be taken away stands there.
    Nothing in the page runs or loads anything, whoever wrote the notebook. Raises InputError for a damaged notebook;
    the page then says so.
    """
    made_of = hashlib.sha256(
        b"\0".join([*_template(), adlib.__version__.encode(), *map(str.encode, (home, title, lead))])
    )
    try:
        made_of.update(read_bytes(source, LARGEST))
        if _is_ours(target, made_of.digest()):
            return target
        page = _page(read_notebook(source), source.name, home, title, lead)
    except InputError as error:
        write_text(target, _damaged_page(str(error), home, title))
        raise
    write_text(target, f"{page}\n{_seal(page, made_of.digest())}")
    return target


def _page(notebook: "nbformat.NotebookNode", name: str, home: str, title: str, lead: str) -> str:
    import nbformat

    about = {
        "title": title or notebook_title(notebook),
        "home": home,
        "lead": lead,
        "opened": False,
        "style": style(),
        "policy": policy(),
        "alt": _alternative_texts(notebook),
        "footer": f"adlib {adlib.__version__}, executed notebook {name}",
    }
    # What a notebook says of itself would choose how its code is coloured, and adds nothing.
    notebook.metadata = nbformat.from_dict({"language_info": {"name": "python", "pygments_lexer": "python3"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    about["opened"] = _open(notebook, title, "" if lead else _first_conclusion(notebook))
    try:
        page, _ = _exporter().from_notebook_node(notebook, resources={"adlib": about})
    except Exception as error:  # whatever a notebook of others does to the exporter, it is this page's and no other's
        raise InputError(f"The notebook {name} cannot be shown ({type(error).__name__}: {error}).") from error
    return page.rstrip()


def _open(notebook: "nbformat.NotebookNode", title: str, claim: str) -> bool:
    """Part a notebook's title from the text below it, so that what the page has to say can stand between them.

    title: takes the place of the first heading, which goes on as text. claim: Markdown. False, and nothing done, where
    the notebook does not begin with a heading.
    """
    import nbformat

    first = notebook.cells[0] if notebook.cells else None
    heading, _, text = (first.source if first and first.cell_type == "markdown" else "").strip().partition("\n")
    if not heading.startswith("# "):
        return False
    if title:
        text = f"**{heading[2:].strip()}**\n\n{text.strip()}"
        heading = "# " + re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", title)

    def cell(name: str, source: str, **metadata) -> "nbformat.NotebookNode":
        return nbformat.from_dict({"cell_type": "markdown", "id": name, "metadata": metadata, "source": source})

    opening = [cell("heading", heading, opens=True), cell("claim", claim, claims=True), cell("text", text.strip())]
    notebook.cells[:1] = [part for part in opening if part.source]
    return True


def _first_conclusion(notebook: "nbformat.NotebookNode") -> str:
    """The first point below the heading "What to take away", with what leads up to the points if that ends with a
    colon; Markdown, "" where there is no such heading.
    """
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## What to take away\n"):
            text, *points = re.split(r"^- ", cell.source.partition("\n")[2].strip(), flags=re.MULTILINE)
            text = text.strip()
            if not points:
                return text.split("\n\n")[0]
            return f"{text} " * text.endswith(":") + points[0].strip()
    return ""


def without_row_numbers(html: str) -> str:
    """HTML with the tables of pandas as a page wants them: a column that only counts the rows is left out, "–" stands
    for what is no number, and columns of words are marked as such.
    """

    def shown(found: re.Match) -> str:
        head, _, body = found[0].replace("<td>NaN</td>", "<td>–</td>").partition("<tbody>")
        rows = re.findall(r"<tr>\s*<th>([^<]*)</th>", body)
        if not rows or rows != [str(number) for number in range(len(rows))] or re.search(r"<tr>\s*<th>\w", head):
            return "<tbody>".join(_with_marked_words(head, body))
        head = re.sub(r"(<tr[^>]*>\s*)<th[^>]*></th>", r"\1", head)
        body = re.sub(r"(<tr>\s*)<th>\d+</th>", r"\1", body)
        return "<tbody>".join(_with_marked_words(head, body))

    return re.sub(r'<table[^>]*class="dataframe[ "][^>]*>.*?</table>', shown, html, flags=re.DOTALL)


def _with_marked_words(head: str, body: str) -> tuple[str, str]:
    """A table's two parts, with class "word" at what is read from the left: cells of columns that hold a word, and the
    heads of columns that name the rows.
    """
    rows = [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in body.split("</tr>") if "<td>" in row]
    count = len(rows[0]) if rows else 0
    if "colspan" in head or any(len(row) != count for row in rows):
        return head, body
    # It begins with a letter, or has two words somewhere: "a scratch", "20 are too few", not "3 px" or "inf".
    word = re.compile(r"\W*(?!inf)[^\W\d_]|.*[^\W\d_]{2,} [^\W\d_]{2,}")
    texts = [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in rows]
    words = [any(map(word.match, column)) for column in zip(*texts, strict=True)]

    def marked(tag: str, row: str) -> str:
        """The tags of one row, of which the last `count` stand above or in a column."""
        column = iter(range(-row.count(f"<{tag}>"), 0))

        def of_column(found: re.Match) -> str:
            place = next(column) + count
            return f'<{tag} class="word">' if place < 0 or words[place] else found[0]

        return re.sub(f"<{tag}>", of_column, row)

    head = "</tr>".join(marked("th", row) for row in head.split("</tr>"))
    return head, "</tr>".join(marked("td", row) for row in body.split("</tr>"))


@cache
def _exporter():
    """The one exporter of all pages: reading the templates takes longer than filling them."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="adlib",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    exporter.register_filter("harmless", harmless_html)
    exporter.register_filter("picture_address", picture_address)
    exporter.register_filter("without_row_numbers", without_row_numbers)
    return exporter


def notebook_title(notebook) -> str:
    """The first heading of a notebook's text cells, without markup."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^#+\s+(.*)", cell.source, re.MULTILINE)):
            return re.sub(r"[*`_]", "", found[1])
    return "untitled"


def _alternative_texts(notebook) -> dict[str, str]:
    """For each cell the last paragraph of text above it, as alternative text of its pictures."""
    texts, last = {}, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.strip():
            paragraph = re.split(r"\n\s*\n", cell.source.strip())[-1]
            last = " ".join(re.sub(r"[*`_#]", "", paragraph).split())
        texts[cell.get("id", "")] = last
    return texts


def style() -> str:
    """The style sheet of every page."""
    return (TEMPLATES / "adlib" / "style.css").read_text(encoding="utf-8")


@cache
def _template() -> tuple[bytes, ...]:
    return tuple(file.read_bytes() for file in sorted((TEMPLATES / "adlib").iterdir()))


def _damaged_page(reason: str, home: str, title: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy())}">'
        f"<title>{escape(title or 'damaged')}</title><style>{style()}</style></head><body>"
        f'<nav><a href="{escape(home)}">adlib report</a> <span>{escape(title)}</span></nav>'
        f'<main><p class="failed">There is nothing to show: {escape(reason)}</p></main></body></html>\n'
    )


# A page ends with a seal over itself and what it was made of. The key is the one by which Jupyter knows the notebooks
# of this user, so that a page that came with somebody else's store is never taken for ours.


@cache
def _secret() -> bytes:
    from nbformat.sign import NotebookNotary

    try:
        return NotebookNotary().secret
    except OSError:  # no home to keep one in: pages are made anew each time
        return secrets.token_bytes(32)


def _seal(page: str, made_of: bytes) -> str:
    seal = hmac.new(_secret(), made_of + page.encode("utf-8", errors="backslashreplace"), "sha256").hexdigest()
    return f"<!-- adlib {seal} -->\n"


def _is_ours(target: Path, made_of: bytes) -> bool:
    try:
        text = read_bytes(target, 2 * LARGEST).decode("utf-8")
    except (InputError, UnicodeDecodeError):
        return False
    page, _, seal = text.rstrip("\n").rpartition("\n")
    return hmac.compare_digest(f"{seal}\n".encode(), _seal(page, made_of).encode())
