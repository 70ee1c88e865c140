"""What others wrote, made harmless for our pages: HTML without script, and the policy that lets no other run.

A store may come from anybody. Its notebooks hold HTML, Markdown and pictures that a browser would run or load; here
they are passed through nbconvert's sanitiser, and the pages forbid what is not ours.
"""

import base64
import hashlib
import re
from functools import cache

# A page that is only looked at. The index adds its own script, by its hash.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

TAGS = (
    *("a", "abbr", "b", "blockquote", "br", "caption", "code", "col", "colgroup", "dd", "del", "details", "div", "dl"),
    *("dt", "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "kbd", "li", "ol", "p"),
    *("pre", "s", "section", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th"),
    *("thead", "tr", "u", "ul", "var"),
)
EVERYWHERE = (
    *("alt", "class", "colspan", "dir", "height", "id", "lang", "open", "role", "rowspan", "scope", "start", "style"),
    *("title", "width"),
)
STYLES = (
    *("background", "background-color", "border", "border-radius", "color", "column-gap", "display", "flex"),
    *("flex-wrap", "font-size", "font-style", "font-weight", "gap", "height", "line-height", "margin", "margin-bottom"),
    *("margin-left", "margin-right", "margin-top", "max-height", "max-width", "min-width", "opacity", "overflow"),
    *("overflow-x", "padding", "padding-left", "padding-right", "print-color-adjust", "row-gap", "text-align"),
    *("text-decoration", "vertical-align", "white-space", "width", "-webkit-print-color-adjust"),
)

_PICTURE = re.compile(
    r"""src\s*=\s*(["'])\s*(data:image/(?:png|jpeg|gif|webp);base64,)([A-Za-z0-9+/=\s]+)\1""", re.IGNORECASE
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
# Pictures stand aside while the sanitiser reads the rest: it knows no data: addresses, and would take minutes for them.
_ASIDE = "https://picture.invalid/"
_UNSEEN = re.compile(r"<(style|script|template|title|noscript)\b.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)


def policy(script: str = "") -> str:
    """The content security policy of a page; script: the text of its one script."""
    if not script:
        return POLICY
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
    return f"{POLICY}; script-src 'sha256-{digest}'"


def harmless_html(html: str) -> str:
    """HTML that shows text, tables and embedded pictures, and neither runs nor loads anything.

    Unknown tags, attributes, styles and addresses are left out; the text between them stays.
    """
    pictures: list[str] = []

    def aside(found: re.Match) -> str:
        pictures.append(found[2].lower() + re.sub(r"\s", "", found[3]))
        return f'src="{_ASIDE}{len(pictures) - 1}"'

    def back(found: re.Match) -> str:
        number = int(found[1])
        return f'src="{pictures[number]}"' if number < len(pictures) else ""

    aside_html = _PICTURE.sub(aside, _UNSEEN.sub("", html))
    return re.sub(rf'src="{re.escape(_ASIDE)}(\d{{1,9}})"', back, _sanitiser().sanitize_html_tags(aside_html))


@cache
def _sanitiser():
    from nbconvert.preprocessors.sanitize import SanitizeHTML

    return SanitizeHTML(tags=list(TAGS), attributes=_is_allowed, styles=list(STYLES), strip=True)


def _is_allowed(tag: str, name: str, value: str) -> bool:
    if name == "href":
        return tag == "a"
    if name == "src":
        return tag == "img" and value.startswith(_ASIDE)
    if name == "style":  # colours are the only functions in ours; url() in any spelling would load something
        return not re.search(r"\\|(?<!rgb)(?<!rgba)\(", value)
    return name in EVERYWHERE or name.startswith("aria-")


def picture_address(data: object, kind: str) -> str:
    """The data: address of an output's picture, as base64 (kind: "png", "jpeg") or as text ("svg+xml"); "" for what is
    none. As the source of an <img> a picture runs nothing, SVG included.
    """
    text = "".join(data) if isinstance(data, list) else str(data)
    if kind == "svg+xml":
        return f"data:image/svg+xml;base64,{base64.b64encode(text.encode('utf-8', 'replace')).decode()}"
    text = re.sub(r"\s", "", text)
    return f"data:image/{kind};base64,{text}" if _BASE64.fullmatch(text) and len(text) % 4 == 0 else ""
