"""A store as a stranger may hand it over: script in every place of it that reaches a page."""

import base64
import json
from pathlib import Path

import nbformat
from conftest import finished_record

from adlib.runs import Store

KEY = "a" * 16
ALERT = "alert('ran')"
SCRIPT = f"<script>{ALERT}</script>"
HTML = [
    SCRIPT,
    f"<scr<script></script>ipt>{ALERT}</script>",
    f'<img src=x onerror="{ALERT}">',
    f'<svg onload="{ALERT}"><script>{ALERT}</script></svg>',
    f'<math><mtext><table><mglyph><style><img src=x onerror="{ALERT}"></style></mglyph></table></mtext></math>',
    f'<iframe srcdoc="&lt;script&gt;parent.{ALERT}&lt;/script&gt;"></iframe>',
    f'<iframe src="javascript:parent.{ALERT}"></iframe>',
    f'<a id="click" href="javascript:{ALERT}">click</a>',
    f'<a href="java&#10;script:{ALERT}">click</a>',
    f'<a href="data:text/html,{SCRIPT}">click</a>',
    f'<object data="data:text/html,{SCRIPT}"></object><embed src="data:text/html,{SCRIPT}">',
    f'<form action="javascript:{ALERT}"><input autofocus onfocus="{ALERT}"><button formaction="javascript:{ALERT}">',
    '<meta http-equiv="refresh" content="0;url=https://outside.invalid/"><base href="https://outside.invalid/">',
    '<link rel="stylesheet" href="https://outside.invalid/a.css"><img src="https://outside.invalid/a.png">',
    '<div style="background:url(https://outside.invalid/b.png);position:fixed;inset:0">over</div>',
    "<style>@import 'https://outside.invalid/c.css'; .adlib-warning { display: none }</style>",
    f'<video src=x onerror="{ALERT}"></video><details open ontoggle="{ALERT}"><summary>s</summary></details>',
    f"<p title='\"><script>{ALERT}</script>'>attribute</p>",
    f'<img src="data:image/svg+xml;base64,{base64.b64encode(SCRIPT.encode()).decode()}">',
    '<img src="data:image/png;base64,AAAA" onload="' + ALERT + '">',
    f'<img src="https://picture.invalid/0"{SCRIPT}>',
    f"<template>{SCRIPT}</template><noscript><p title='</noscript>{SCRIPT}'></noscript>",
]
MARKDOWN = [
    SCRIPT,
    f"[click](javascript:{ALERT})",
    f"![picture](javascript:{ALERT})",
    f'[click](x "onmouseover={ALERT}")',
    f"<javascript:{ALERT}>",
    f'# heading <img src=x onerror="{ALERT}">',
]
DATA = [
    {"image/png": f'AAAA" onerror="{ALERT}'},
    {"image/png": f"AAAA'>{SCRIPT}"},
    {"image/jpeg": f'AAAA">{SCRIPT}'},
    {"image/svg+xml": f'<svg xmlns="http://www.w3.org/2000/svg" onload="{ALERT}"><script>{ALERT}</script></svg>'},
    {"application/javascript": ALERT},
    {"text/latex": f"$x$ {SCRIPT}"},
    {"text/plain": SCRIPT},
    {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/html": SCRIPT},
    {f"text/x{SCRIPT}": SCRIPT},
]


def notebook() -> nbformat.NotebookNode:
    """A notebook that tries everything."""
    outputs = [nbformat.v4.new_output("display_data", {"text/html": html}) for html in HTML]
    outputs += [nbformat.v4.new_output("display_data", {"text/markdown": text}) for text in MARKDOWN]
    outputs += [nbformat.v4.new_output("display_data", data) for data in DATA]
    outputs += [
        nbformat.v4.new_output("stream", name="stdout", text=SCRIPT),
        nbformat.v4.new_output(
            "error", ename=SCRIPT, evalue=SCRIPT, traceback=[SCRIPT, f"\x1b]8;;javascript:{ALERT}\x07"]
        ),
    ]
    cells = [nbformat.v4.new_markdown_cell(text) for text in (f"# {SCRIPT} title", *MARKDOWN, *HTML)]
    cells += [nbformat.v4.new_raw_cell(SCRIPT), nbformat.v4.new_code_cell(f"# {SCRIPT}", outputs=outputs)]
    cells[-1].metadata["magics_language"] = f'"><script>{ALERT}</script>'
    attached = nbformat.v4.new_markdown_cell("![a](attachment:a.png)")
    attached["attachments"] = {"a.png": {f'image/png"onerror="{ALERT}': f'AAAA" onerror="{ALERT}'}}
    language = {"name": f'x"><script>{ALERT}</script>', "pygments_lexer": f'x"><script>{ALERT}</script>'}
    metadata = {"language_info": language, "title": SCRIPT, "widgets": {SCRIPT: SCRIPT}}
    return nbformat.v4.new_notebook(cells=[*cells, attached], metadata=metadata)


def leave_store(out: Path) -> None:
    """Runs, a plan, an executed notebook and finished pages, all of them crafted."""
    store = Store(out / "runs")
    run = {"dataset": SCRIPT, "category": f'"><img src=x onerror="{ALERT}">', "method": SCRIPT, "root": SCRIPT}
    code = {"version": SCRIPT, "commit": SCRIPT, "dirty": True}
    record = finished_record(KEY, run, warnings=[SCRIPT], ended=SCRIPT, code=code, reasons={"aupro": SCRIPT})
    failed = finished_record("b" * 16, run, status="failed", kind=SCRIPT, reason=SCRIPT)
    for each in (record, failed):
        store.path(each["key"]).mkdir(parents=True)
        (store.path(each["key"]) / "record.json").write_text(json.dumps(each))
        nbformat.write(notebook(), store.path(each["key"]) / "run.ipynb")
    damaged = store.path("c" * 16)
    damaged.mkdir()
    (damaged / "record.json").write_text(json.dumps(record | {"files": {SCRIPT: 1}, "key": "c" * 16}))
    place = {"paper": "cxr_ad", "table": "II", "dataset": "cxr_ad", "category": "UB", "setting": "", "seed": 0}
    cells = [place | {"method": "patchcore", "missing": "", "key": KEY}]
    cells += [place | {"method": "onenip", "missing": SCRIPT, "key": ""}]
    (out / "plans").mkdir()
    (out / "plans" / "cxr_ad.json").write_text(json.dumps({"paper": "cxr_ad", "cells": cells}))
    (out / "notebooks").mkdir()
    nbformat.write(notebook(), out / "notebooks" / "11_cxr_ad_benchmark.ipynb")
    nbformat.write(notebook(), out / "notebooks" / "x'onclick='y.ipynb")
    for page in (f"html/runs/{KEY}.html", "html/runs/dddddddddddddddd.html", "html/11_cxr_ad_benchmark.html"):
        (out / page).parent.mkdir(parents=True, exist_ok=True)
        (out / page).write_text(f"{SCRIPT}\n<!-- adlib {'0' * 64} -->\n")
