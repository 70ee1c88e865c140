"""A reproduction says what its report lacks."""

from adlib import reproduce
from adlib.report.known_answers import Verdict
from adlib.runs.profile import read_profile
from adlib.runs.record import FINISHED


def test_a_page_that_the_report_lacks_is_a_failure_with_its_name(tmp_path, monkeypatch):
    run = {"dataset": "miic", "root": str(tmp_path), "method": "padim", "category": "MIIC", "settings": {}}
    records = [{"key": key, "status": FINISHED, "run": run | {"seed": i}} for i, key in enumerate(("a" * 16, "b" * 16))]
    results = {
        "make_plan": [], "fetch_weights": None, "write_plan": None, "distinct_runs": [], "run_all": records,
        "execute_all": [], "known_answers": [], "verdict": Verdict(0, 0, 0, []),
    }  # fmt: skip
    for name, result in results.items():
        monkeypatch.setattr(reproduce, name, lambda *_, _result=result: _result)
    for page in ("runs/" + "a" * 16, "30_miic_data", "31_miic_benchmark"):
        (tmp_path / "html" / "runs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "html" / f"{page}.html").write_text("")
    monkeypatch.setattr(reproduce, "render_report", lambda out, *_: out / "index.html")
    monkeypatch.setattr(reproduce.papers, "ACROSS", {"60_across_papers": True})
    monkeypatch.setattr(reproduce, "dataset_root", lambda *_: tmp_path)

    outcome = reproduce.reproduce(["miic"], read_profile("smoke"), tmp_path)
    assert outcome.failures == [
        "html/60_across_papers.html: the report lacks this page",
        f"html/runs/{'b' * 16}.html: the report lacks this page",
    ]
