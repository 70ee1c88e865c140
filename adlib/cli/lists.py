"""Commands that say what there is: datasets, methods, papers, and what works on this machine."""

from typing import Annotated

import typer

from adlib.cli.options import Data, PaperNames, complete_method, print_warnings


def datasets(data: Data = None) -> None:
    """List the datasets: images published, licence, how to get them; whether they are in --data, or can be drawn."""
    from adlib.datasets import broken_datasets, facts, list_datasets
    from adlib.phantoms import broken_phantoms, list_phantoms

    broken = broken_datasets()
    for name in (name for name in list_datasets() if name not in broken):
        about = facts(name)
        total = about.count_table().sum().astype(int)
        numbers = f"{total['train']} train, {total['test_normal']} normal + {total['test_anomalous']} anomalous test"
        print(f"{name:12} {about.title}" + (f": {numbers}, {len(about.counts)} categories" if about.counts else ""))
        print(f"{'':12} licence {about.licence}; {about.get}")
        if data is not None and name != "folder":
            print(f"{'':12} {'found' if (data / name).is_dir() else 'NOT FOUND'}: {data / name}")
        if name in list_phantoms():
            print(f"{'':12} phantom: adlib phantoms {name} --out DIR")
    print_warnings([*broken.values(), *broken_phantoms().values()])


def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[METHOD]...", help="for all about these methods", autocompletion=complete_method),
    ] = None,
) -> None:
    """List the methods in a table; of those that are named, what they are and their parameters with defaults."""
    import inspect

    from adlib import conformance
    from adlib.features.weights import weights_file
    from adlib.models import broken_models, default_weights, method_table, model_class

    if not names:
        table = method_table()
        widths = {column: max(len(column), *table[column].str.len()) for column in table}
        for row in [dict(zip(table, table, strict=True)), *table.to_dict("records")]:
            print("  ".join(row[column].ljust(width) for column, width in widths.items()).rstrip())
        print("\nParameters of a method: adlib models METHOD")
        print_warnings(broken_models().values())
    for name in names or []:
        detector = model_class(name)
        print(f"{name:12} {(inspect.getmodule(detector).__doc__ or '').partition(chr(10))[0]}")
        for parameter in list(inspect.signature(detector.__init__).parameters.values())[1:]:
            print(f"{'':12} {parameter.name} = {parameter.default!r}")
        for key, value in detector.image_defaults.items():
            print(f"{'':12} {key} = {value!r}")
        if weights := default_weights(name):
            print(f"{'':12} weights: {weights_file(weights) or 'not in ADLIB_WEIGHTS, will be asked of the hub'}")
        for line in conformance.lines(name):
            print(f"{'':12} {line}")


def papers() -> None:
    """List the papers that can be reproduced, with their benchmark tables, and the studies."""
    from adlib.papers import broken_papers, list_papers, list_studies, protocol

    for name in list_papers():
        about = protocol(name)
        print(f"{name:12} {about['title']} ({about['source']})")
        for table, spec in about["tables"].items():
            print(f"{'':12} table {table}: {spec['title']}")
    for name in list_studies():
        print(f"{name}: {protocol(name)['question']}")
    print_warnings(broken_papers().values())


def audit(
    papers: PaperNames = None,
    doubtful: Annotated[bool, typer.Option(help="list what lies below chance or far from all others instead")] = False,
) -> None:
    """Recompute the papers' published tables from themselves, and print what does not agree."""
    from adlib.papers.audit import DOUBTED, disagreeing
    from adlib.papers.audit import audit as audit_papers

    found = audit_papers(papers or None)
    doubted = found["kind"].isin(list(DOUBTED))
    for kind, part in found[doubted == doubtful].groupby("kind", sort=False):
        for row in disagreeing(part).itertuples():
            cause = f" ({row.likely_cause})" if row.likely_cause else ""
            beside = f"{DOUBTED.get(kind, 'recomputed')} {row.recomputed:.6g}{cause}"
            print(f"{row.paper} {row.table}, {row.where}: printed {row.printed:g}, {beside}")
    if doubtful:
        print(f"{doubted.sum()} printed numbers lie below what chance gives, or far from all others.")
        return
    wrong = len(disagreeing(found[~doubted]))
    more = f"; {doubted.sum()} more are doubtful for where they lie: --doubtful lists them" if doubted.any() else ""
    print(f"{wrong} of {(~doubted).sum()} recomputed numbers do not agree with what is printed{more}.")


def doctor(data: Data = None) -> None:
    """Say what works on this machine, what is missing and how to get it."""
    from adlib.cli.doctor import examine

    findings = examine(data)
    for finding in findings:
        print(f"{finding.state:5} {finding.what}: {finding.text}")
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


COMMANDS = (datasets, models, papers, audit, doctor)
