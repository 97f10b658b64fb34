"""What documents show of records: figures, tables, and what a run printed, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from rich.console import Console

from distmeta.cli.display import meta_test_table, result_lines
from distmeta.core.words import clock
from distmeta.objectives.metrics import LISTS

SHOWN_STEPS = (1, 5, 10)
"""Inner steps whose errors a table shows, where there are so many."""

PART = "omniglot_5w1s_"
"""Before the names of the records in the short table."""

Record = Mapping[str, Any]
Published = Mapping[str, Mapping[str, Any]]


def evaluation(overrides: str) -> str:
    """The command of a further evaluation, by which a record has it."""
    return f"distmeta evaluate RUN {overrides} --json"


def metric(measured: Mapping[str, Any]) -> str:
    """What a meta-test measures beside the loss."""
    return next((name for name in measured if name not in ("loss", *LISTS, "before_adaptation")), "loss")


def spread(value: Mapping[str, Any], percent: bool) -> str:
    """A mean with its 95 % interval: accuracies in percent, errors and losses as numbers.

    >>> spread({"mean": 0.9314, "ci95": 0.0044}, True), spread({"mean": 0.385, "ci95": 0.0531}, False)
    ('93.14 ± 0.44 %', '0.385 ± 0.053')
    """
    if value["mean"] is None or value["ci95"] is None:
        return "not finite"
    form, scale = ("{:.2f} ± {:.2f} %", 100) if percent else ("{:.3f} ± {:.3f}", 1)
    return form.format(scale * value["mean"], scale * value["ci95"])


def figure(record: Record, field: str, overrides: str | None = None) -> str:
    """One figure of a record: a measurement of its meta-test or of a further evaluation, or ``elapsed``."""
    if field == "elapsed":
        return clock(record["elapsed"])
    measured = record["evaluate"][evaluation(overrides)]["meta_test"] if overrides else record["result"]["meta_test"]
    percent = field.startswith("accuracy") or (field == "before_adaptation" and metric(measured).startswith("accuracy"))
    return spread(measured[field], percent)


def meta_test_words(measured: Mapping[str, Any]) -> str:
    """A meta-test in a cell of a table: an accuracy in its two ways, an error or a return after some inner steps."""
    name = metric(measured)
    if name == "return" and "by_step" not in measured:
        return f"return {spread(measured[name], False)}"
    if name == "return":
        groups = measured.get("by_group") or {"return": measured}
        return "; ".join(f"{group} {_return_words(own['by_step'])}" for group, own in groups.items())
    if not name.startswith("accuracy"):
        steps = [row for row in measured.get("by_step", []) if row["step"] in SHOWN_STEPS]
        words = [f"{spread(row, False)} after {row['step']}" for row in steps] or [spread(measured[name], False)]
        return ", ".join(words) + " inner steps" * bool(steps)
    inductive = f"{name}_inductive"
    words = [spread(measured[name], True)]
    if inductive in measured:
        words = [f"transductive {words[0]}", f"inductive {spread(measured[inductive], True)}"]
    if "before_adaptation" in measured:
        words.append(f"{spread(measured['before_adaptation'], True)} before adaptation")
    return ", ".join(words)


def _return_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns before adaptation, and after one and all inner steps."""
    words = [f"{spread(rows[0], False)} before adaptation"]
    for row in [*(rows[1:2] if len(rows) > 2 else []), rows[-1]]:
        words.append(f"{spread(row, False)} after {row['step']} inner step" + "s" * (row["step"] != 1))
    return ", ".join(words)


def training_words(record: Record) -> str:
    """What a run took, in a cell of a table."""
    result = record["result"]
    count = result["workers"]["count"]
    where = "in process" if record["in_process"] else f"{count} worker{'s' if count != 1 else ''}"
    whole = f" ({clock(record['elapsed'])} in all)" if "elapsed" in record else ""
    return f"{clock(result['seconds'])}{whole}, {result['tasks_per_second']:,.0f} tasks/s, {where}"


def printed(record: Record, name: str) -> str:
    """What a run prints at its end, as a block of text."""
    out = StringIO()
    console = Console(file=out, width=80, force_terminal=False, color_system=None, _environ={})
    console.print(meta_test_table(record["result"]["meta_test"]))
    lines = [*out.getvalue().splitlines(), *result_lines(record["result"], f"runs/{name}-DATE-TIME")]
    return "\n".join(["```text", *(line.rstrip() for line in lines), "```"])


def sweep_table(record: Record) -> str:
    """A sweep's best trial beside the first one that its file gives, and what it took."""
    results = record["results"]
    name, best, percent = results["metric"], results["best"], results["metric"].startswith("accuracy")
    first = min(results["trials"], key=lambda trial: trial["name"])
    rows = []
    for title, trial in (("first", first), ("best", best)):
        values = ", ".join(f"`{key}` {value:.4g}" for key, value in trial["values"].items())
        score = f"{100 * trial['score']:.2f} %" if percent else f"{trial['score']:.3f}"
        tested = spread(best["meta_test"][name], percent) if trial is best else ""
        rows.append((title, values, f"{score} at step {trial['step']}", tested))
    table = _table(("trial", "values", f"best meta-validation, {name}", "meta-test"), rows)
    made = ", ".join(str(record[key]) for key in ("commit", "date", "machine"))
    return f"{table}\n\n{len(results['trials'])} trials in {clock(record['elapsed'])}, Ray's start included ({made})."


def peers_table(record: Record) -> str:
    """Tasks a second of distmeta and of its peers, each as it uses the whole machine best, and the ratios."""
    cases = record["figures"]["cases"]
    ours, *peers = next(iter(cases.values()))
    rows = []
    for name, found in cases.items():
        theirs = [
            f"{found[peer]['tasks_per_second']:,.1f} (**{found[peer]['ours_over_this']:.2f} x**)" for peer in peers
        ]
        rows.append((f"`{name}`", f"{found[ours]['tasks_per_second']:,.1f}", *theirs))
    table = _table(("case", "distmeta", *(f"{peer} (distmeta over it)" for peer in peers)), rows)
    made = ", ".join(str(record[key]) for key in ("commit", "date", "machine"))
    return f"{table}\n\n`{record['command']}` ({made})"


def baselines_table(record: Record) -> str:
    """Accuracies or errors of several methods on the same tasks."""
    measure = "accuracy" if "accuracy" in record["figures"] else "mse"
    rows = [(name, spread(found, measure == "accuracy")) for name, found in record["figures"][measure].items()]
    made = ", ".join(str(record[key]) for key in ("commit", "date", "machine"))
    table = _table(("method", {"mse": "mean squared error"}.get(measure, measure)), rows)
    return f"{table}\n\n`{record['command']}`, {record['figures']['tasks']:,} tasks ({made})"


def rules_table(record: Record) -> str:
    """Total rewards of a policy and of rules on the same bandits, and how far the policy is beyond each."""
    rows = [
        (name, spread(found["reward"], False), "" if name == "the policy" else spread(found["policy_beyond"], False))
        for name, found in record["figures"]["reward"].items()
    ]
    made = ", ".join(str(record[key]) for key in ("commit", "date", "machine"))
    table = _table(("rule", "total reward", "the policy beyond it"), rows)
    return f"{table}\n\n`{record['command']}`, {record['figures']['tasks']:,} tasks ({made})"


def parts_table(record: Record) -> str:
    """What ``benchmarks/gpu.sh`` found, part by part."""
    rows = [(row["part"], row["figure"], row["value"]) for row in record["figures"]["rows"]]
    made = ", ".join(str(record[key]) for key in ("commit", "date", "machine", "torch"))
    return f"{_table(('part', 'figure', 'value'), rows)}\n\n`{record['command']}` ({made})"


def memory_table(record: Record) -> str:
    """The most memory of exact meta-gradients, by the number of inner steps."""
    peak = record["figures"]["peak"]
    steps = sorted({int(count) for own in peak.values() for count in own})
    rows = [
        (f"{count}", *(f"{own[str(count)]['mb']:.0f} MB" if str(count) in own else "-" for own in peak.values()))
        for count in steps
    ]
    made = ", ".join(str(record[key]) for key in ("commit", "date", "machine", "torch"))
    return f"{_table(('inner steps', *peak), rows)}\n\n`{record['command']}` ({made})"


def heads_table(record: Record) -> str:
    """What solving a task costs beside its embedding: how many times the embedding's own time a meta-gradient takes."""
    cases = record["figures"]["cases"]
    methods = [name for name in next(iter(cases.values())) if name != "embedding alone"]
    rows = [
        (
            f"`{case}`",
            f"{found['embedding alone']['milliseconds']:.1f} ms",
            *(f"{found[name]['over_embedding']:.2f}" for name in methods),
            f"{found['protonet']['peak_mb']:.0f}, {found['metaoptnet']['peak_mb']:.0f} MB",
        )
        for case, found in cases.items()
    ]
    made = ", ".join(str(record[key]) for key in ("commit", "date", "machine"))
    table = _table(
        ("case", "embedding alone", *(f"`{name}`" for name in methods), "memory with `protonet` and with `metaoptnet`"),
        rows,
    )
    return f"{table}\n\n`{record['command']}` ({made})"


def serving_table(record: Record) -> str:
    """What a service answers under load, with requests computed together and one by one, and by several replicas."""
    figures = record["figures"]
    modes = {mode: found for mode, found in figures.items() if isinstance(found, dict) and "wrong" in found}
    rows = []
    for mode, found in modes.items():
        for route in ("adapt", "predict"):
            times = [f"{found[route][f'p{at}_ms']:.0f}" for at in (50, 95, 99)]
            rows.append((mode, f"`/{route}`", f"{found[route]['count']:,}", *times))
    table = _table(("", "request", "answers", "median, ms", "95 %, ms", "99 %, ms"), rows)
    rates = ", ".join(f"{found['answers_a_second']:.0f} {mode}" for mode, found in modes.items())
    memory = " and ".join(f"{own:,.0f} MB beside {kept:,.0f} MB" for own, kept in figures["batched"]["memory_mb"])
    wrong = sum(found["wrong"] + found["failed"] for found in modes.values())
    fuzzed = ", ".join(f"{count:,} of {status}" for status, count in figures["fuzzed"].items())
    made = ", ".join(str(record[key]) for key in ("commit", "date", "machine"))
    return (
        f"{table}\n\nAnswers a second: {rates}; batched {figures['ratio']:.2f} times as many as one by one. Wrong or "
        f"failed: {wrong}. The service's processes had, of one replica, after a third of the time and at the end: "
        f"{memory} of models that it kept. Requests that were nearly right got: {fuzzed}.\n\n"
        f"`{record['command']}` ({made})"
    )


def adapting_table(record: Record) -> str:
    """The rate of adapting to given tasks on workers."""
    figures = record["figures"]
    made = ", ".join(str(record[key]) for key in ("commit", "date", "machine"))
    return (
        f"On two Ray workers {figures['adapt_tasks_per_second']:.0f} tasks/s, {figures['ratio']:.2f} times the bare "
        f"engine's in two processes; tasks with other bits than alone: {figures['other_bits']}.\n\n"
        f"`{record['command']}` ({made})"
    )


def shown_tables(record: Record) -> str:
    """What a benchmark has shown, as it was shown."""
    parts = []
    for part in record["figures"]["shown"]:
        if "text" in part:
            parts.append(f"{part['text'][0].upper()}{part['text'][1:]}.")
        else:
            title = f"{part['title'][0].upper()}{part['title'][1:]}:"
            parts.append(f"{title}\n\n{_table(tuple(part['columns']), [tuple(row) for row in part['rows']])}")
    made = ", ".join(str(record[key]) for key in ("commit", "date", "machine"))
    return "\n\n".join([*parts, f"`{record['command']}` ({made})"])


def methods_table(records: Mapping[str, Record], published: Published, short: bool) -> str:
    """Our figures beside the papers', with the difference and, where ours is below, the reason.

    Args:
        records: of runs.
        published: of papers; those with a ``value`` are compared.
        short: Omniglot's 5 ways and 1 shot alone, and few columns.
    """
    rows: list[tuple[str, ...]] = []
    for name, record in records.items():
        measured, paper = record["result"]["meta_test"], published.get(name, {})
        if short and not name.startswith(PART):
            continue
        kind = metric(measured)
        if kind != "accuracy":
            continue
        ours, value = measured[kind], paper.get("value")
        apart = "" if value is None else f"{100 * ours['mean'] - float(value):+.2f}"
        theirs = f"{paper['figure']} ({paper['source']})" if paper else "none"
        if short:
            if paper:
                rows.append((f"`{name.removeprefix(PART)}`", spread(ours, True), paper["figure"]))
            continue
        steps, taken = f"{record['result']['steps']:,}", clock(record["result"]["seconds"])
        method = f"[`{record['algorithm']}`](algorithms/{record['algorithm']}.md)"
        rows.append((method, f"`{name}`", steps, taken, spread(ours, True), theirs, apart, paper.get("why", "")))
    if short:
        return _table(("method", "accuracy", "published"), rows)
    return _table(("method", "configuration", "steps", "time", "ours", "published", "difference", "why"), rows)


def block(what: str, records: Mapping[str, Record], published: Published, others: Mapping[str, Record]) -> str:
    """What stands between a pair of markers on lines of their own.

    Args:
        what: ``records``, ``conditions``, ``algorithm NAME``, ``runs PART`` of the records with this in their names,
            ``printed RECORD``, ``sweep NAME``, ``peers NAME``, ``baselines NAME``, ``rules NAME``, ``parts NAME``,
            ``memory NAME``, ``heads NAME``, ``serving NAME``, ``adapting NAME`` or ``shown NAME``; or ``methods``,
            records beside their papers, and ``short``, some.
        records: all of runs, by name, in the order of the rows.
        published: ``figure`` and ``source`` of papers, by record.
        others: records of sweeps and benchmarks, by name.

    Raises:
        ValueError: there is no such table.
    """
    kind, _, name = what.partition(" ")
    tables = {
        "sweep": sweep_table,
        "peers": peers_table,
        "baselines": baselines_table,
        "rules": rules_table,
        "parts": parts_table,
        "memory": memory_table,
        "heads": heads_table,
        "serving": serving_table,
        "adapting": adapting_table,
        "shown": shown_tables,
    }
    if kind in tables:
        return tables[kind](others[name])
    if kind == "printed":
        return printed(records[name], name)
    if kind == "algorithm":
        rows = [_result(each) for each in records.values() if each["algorithm"] == name]
        if not rows:
            return "There is no figure of ours yet."
        return "Ours ([results](../results.md) has the conditions):\n\n" + _table(("command", "meta-test"), rows)
    if what == "records" or kind == "runs":
        papers = {key: f"{each['figure']} ({each['source']})" for key, each in published.items()}
        rows = [
            (*_result(each), _tasks(each), papers.get(key, "none"), training_words(each))
            for key, each in records.items()
            if name in key
        ]
        return _table(("command", "meta-test", "tasks", "published", "training"), rows)
    if what in ("methods", "short"):
        return methods_table(records, published, short=what == "short")
    if what == "conditions":
        fields = ("commit", "date", "machine", "torch")
        rows = [(f"[{key}](results/{key}.json)", *(each[field] for field in fields)) for key, each in records.items()]
        return _table(("record", *fields), rows)
    raise ValueError(f"there are no results called {what!r}")


def _result(record: Record) -> tuple[str, ...]:
    return f"`{record['command']}`", meta_test_words(record["result"]["meta_test"])


def _tasks(record: Record) -> str:
    measured = record["result"]["meta_test"]
    return f"{measured[metric(measured)]['tasks']:,}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
