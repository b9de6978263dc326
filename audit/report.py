"""A fairness certificate for people: one HTML file without scripts or anything from outside, fit for print.

It shows what the certificate says and adds nothing; who doubts it checks the certificate against the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from audit import report_finds
from audit.certificate import Accuracy, Certificate, SiloFacts
from audit.charts import Band, WeightPoint, accuracy_chart, legend, verdict_chart, weight_chart
from audit.intervals import percent_span
from audit.tally import RoundFacts, RoundSilo
from protos.task import MICRO, NANO

_MOST_ROWS = 300
"""Verdicts listed one by one; the certificate has them all."""

_STYLE = """
:root { color: #1b2733; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
body { max-width: 960px; margin: 2.5rem auto; padding: 0 1.2rem; background: #fff; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.sub { color: #5a6773; margin: 0 0 1.2rem; }
.badge { display: inline-block; padding: .25rem .7rem; border-radius: .3rem; font-weight: 600; color: #fff; }
.yes { background: #00734f; } .no { background: #b3330e; }
td.mark { font-weight: 700; white-space: nowrap; } td.ok { color: #00734f; } td.bad { color: #b3330e; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: .7rem 1.4rem; }
.facts { margin: 1.2rem 0; }
.facts div span { display: block; color: #5a6773; font-size: .82rem; } .facts div { font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .32rem .55rem; border-bottom: 1px solid #e3e8ed; vertical-align: top; }
th { color: #5a6773; font-weight: 600; border-bottom-color: #8a96a3; } .n { text-align: right; white-space: nowrap; }
code { font: .82rem/1.4 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; font-family: inherit; } .many { display: flex; flex-wrap: wrap; gap: .6rem; }
.legend { font-size: .82rem; color: #4a5763; } .key { margin-right: 1.1rem; white-space: nowrap; }
.key i { display: inline-block; width: 1.2em; text-align: center; margin-right: .35em; font-style: normal; }
.key i { font-size: .75rem; }
.key:nth-child(3) i, .key:nth-child(4) i { color: #fff; } .note { color: #5a6773; font-size: .88rem; }
li { margin-bottom: .3rem; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } tr, svg { break-inside: avoid; } }
@media print { * { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""


def render(certificate: Certificate) -> str:
    """The report as one HTML document."""
    federation = escape(certificate.head.head.federation)
    sections = (
        _summary(certificate),
        _section("What the policy promised", _clauses(certificate)),
        _section("Silos", _silos(certificate)),
        _section("Accuracy of the final model", _accuracies(certificate)),
        _section("Weights", _weights(certificate)),
        _section("Verdicts", _verdicts(certificate)),
        _section("Why", _reasons(certificate)),
        _section("Searches for triggers", report_finds.searches(certificate)),
        _section("Rounds that were void", _void(certificate)),
        _section("What this does not claim", _limits(certificate)),
        _section("How to check it", _how(certificate)),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Fairness report: {federation}</title><style>{_STYLE}</style></head>\n<body>"
        f"<h1>Fairness report</h1>{''.join(sections)}</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"\n<h2>{escape(title)}</h2>\n{content}" if content else ""


def _summary(certificate: Certificate) -> str:
    head, budget = certificate.head.head, certificate.budget
    state = "finished" if certificate.finished else "still running"
    badge = '<span class="badge yes">Policy met</span>' if certificate.met else _NOT_MET
    facts = (
        ("Silos", str(len(certificate.silos))),
        ("Rounds", f"{certificate.rounds_adopted} adopted, {certificate.rounds_void} void"),
        ("Accuracy gap between silos", _gap_text(certificate.gap)),
        ("Privacy budget of a record", f"ε ≤ {_epsilon(budget.epsilon_micro)}, δ = {budget.delta_nano / NANO:g}"),
        ("Weight bounds", _bounds_text(certificate)),
        ("Exclusions", f"false discovery rate {certificate.policy.fdr_micro / MICRO:g}"),
        ("Log", f"{head.size} records"),
    )
    grid = "".join(f"<div><span>{escape(name)}</span>{escape(value)}</div>" for name, value in facts)
    released = (("Released model", certificate.released or "none"),) if certificate.finished else ()
    digests = (("Head of the log", head.digest), ("Task", certificate.task), ("Model", certificate.model), *released)
    rows = "".join(f"<tr><td>{name}</td><td><code>{escape(value)}</code></td></tr>" for name, value in digests)
    return (
        f'<p class="sub">Federation {escape(head.federation)}, {state}</p>{badge}'
        f'<div class="facts">{grid}</div><table>{rows}</table>'
    )


_NOT_MET = '<span class="badge no">Policy NOT met</span>'


def _clauses(certificate: Certificate) -> str:
    rows = [
        f'<tr><td class="mark {"ok" if clause.met else "bad"}">{"✓ kept" if clause.met else "✗ BROKEN"}</td>'
        f"<td>{escape(clause.text)}</td><td>{escape(clause.detail)}</td></tr>"
        for clause in certificate.clauses
    ]
    return _table(("", "Promise", "Found"), (), rows)


def _silos(certificate: Certificate) -> str:
    heads = (
        "Silo",
        "Records*",
        "Top class*",
        "Part in",
        "Late",
        "Withdrawn",
        "Suspected",
        "Excluded",
        "Weight",
        "ε†",
        "Co-signed",
    )
    rows = [_silo_row(silo) for silo in certificate.silos]
    delta = certificate.budget.delta_nano / NANO
    note = (
        '<p class="note">* noised counts; top class is the share of the most frequent one. † at '
        f"the end, rounded up, at δ = {delta:g}; in brackets as if every missed "
        f"round had been spent. Weights are out of {certificate.policy.total_weight}; co-signed "
        "is the longest log whose head the silo signed.</p>"
    )
    return _table(heads, range(1, len(heads)), rows) + note


def _silo_row(silo: SiloFacts) -> str:
    weight = "none" if silo.weight_min is None else f"{silo.weight_min} to {silo.weight_max}"
    mark = f"<br><b>convicted:</b> {escape(silo.convicted)}" if silo.convicted is not None else ""
    numbers = (
        str(silo.records), f"{silo.largest_class_micro / MICRO:.0%}", f"{silo.taken_part} of {silo.planned}",
        str(silo.late), str(silo.withdrawn), str(silo.suspected), f"{silo.excluded} of {silo.judged}", weight,
        _epsilon_of(silo), str(silo.cosigned),
    )  # fmt: skip
    return f"<tr><td>{escape(silo.silo)}{mark}</td>{''.join(_number(text) for text in numbers)}</tr>"


def _accuracies(certificate: Certificate) -> str:
    bands = [_band(silo.silo, silo.accuracy) for silo in certificate.silos if silo.accuracy is not None]
    if not bands:
        return '<p class="note">No silo has evaluated a model yet.</p>'
    without = [silo.silo for silo in certificate.silos if silo.accuracy is None]
    missing = f" Not among them: {escape(', '.join(without))}." if without else ""
    return (
        f"{accuracy_chart(bands)}<p>Gap between the best and the worst silo: "
        f"<b>{escape(_gap_text(certificate.gap))}</b>.{missing}</p>"
        '<p class="note">Each silo counts on its own hold-out, which is never trained on, and adds privacy noise. The '
        "intervals (95 %) hold for sampling and for that noise; the gap's holds for all silos at once.</p>"
    )


def _weights(certificate: Certificate) -> str:
    charts = [weight_chart(silo.silo, _points(certificate.rounds, silo.silo)) for silo in certificate.silos]
    note = (
        '<p class="note">Dashed: floor and cap of the round, which follow from the number of retained silos. A gap is '
        "a round in which the silo had no weight.</p>"
    )
    return f'<div class="many">{"".join(charts)}</div>{note}'


def _points(rounds: Sequence[RoundFacts], silo: str) -> list[WeightPoint]:
    weights = [{row.silo: row.weight for row in facts.silos} for facts in rounds]
    return [
        WeightPoint(facts.round, of.get(silo) or None, facts.floor, facts.cap)
        for facts, of in zip(rounds, weights, strict=True)
    ]


def _verdicts(certificate: Certificate) -> str:
    rows = []
    for silo in certificate.silos:
        marks = [(f.round, _mark(row)) for f in certificate.rounds for row in f.silos if row.silo == silo.silo]
        rows.append((silo.silo, marks))
    return verdict_chart(rows, len(certificate.rounds)) + legend()


def _mark(row: RoundSilo) -> str:
    if row.verdict != "none":
        return row.verdict
    return "withdrawn" if row.withdrawn else "late" if row.late else "none"


def _reasons(certificate: Certificate) -> str:
    """Verdicts with the same reason share a line, which names their rounds."""
    groups: dict[tuple[str, str, str], list[tuple[int, int | None]]] = {}
    for facts in certificate.rounds:
        for row in facts.silos:
            if row.verdict not in ("retained", "none"):
                groups.setdefault((row.silo, row.verdict, row.reason), []).append((facts.round, _evidence(row)))
        for item in facts.convicted:
            groups.setdefault((item.silo, "convicted", item.reason), []).append((facts.round, None))
    if not groups:
        return '<p class="note">Every silo was retained without suspicion in every round.</p>'
    rows = [_reason_row(key, found) for key, found in sorted(groups.items())]
    left_out = len(rows) - _MOST_ROWS
    more = f'<p class="note">{left_out} more are in the certificate.</p>' if left_out > 0 else ""
    return _table(("Silo", "Verdict", "Rounds", "Reason", "Evidence"), (4,), rows[:_MOST_ROWS]) + more + _P_NOTE


def _reason_row(key: tuple[str, str, str], found: Sequence[tuple[int, int | None]]) -> str:
    silo, verdict, reason = key
    rounds = _ranges([number for number, _ in found])
    values = [value for _, value in found if value is not None]
    evidence = f"p ≤ {10 ** (-min(values) / MICRO):.1e}" if values else ""
    cells = "".join(f"<td>{escape(text)}</td>" for text in (silo, verdict, rounds, reason))
    return f"<tr>{cells}{_number(evidence)}</tr>"


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in short, such as `1-3, 7`."""
    parts: list[list[int]] = []
    for number in dict.fromkeys(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


_P_NOTE = (
    '<p class="note">Evidence: the p-value of a law with a known null distribution, where there is one; over several '
    "rounds the weakest.</p>"
)


def _void(certificate: Certificate) -> str:
    rows = [
        f"<tr>{_number(str(facts.round))}<td>{escape(facts.fault)}</td><td>{escape(facts.reason)}</td></tr>"
        for facts in certificate.rounds
        if facts.result == "void"
    ]
    return _table(("Round", "Laid to", "Reason"), (0,), rows) if rows else ""


def _limits(certificate: Certificate) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in certificate.not_claimed)}</ul>"


def _how(certificate: Certificate) -> str:
    return (
        "<p>This page repeats the certificate, and the certificate follows from the log. Whoever has both, and the "
        "federation's log key from another source, checks them, and the model, with</p>"
        "<p><code>concordat-audit check-certificate CERT.json --log log.jsonl --log-key KEY --head HEAD --model "
        "MODEL</code></p><p>where HEAD is a head of the log that a silo kept: without one, a log whose tail was cut "
        "before it was signed anew cannot be told from a whole one.</p>"
    )


def _table(heads: Sequence[str], numeric: Iterable[int], rows: Sequence[str]) -> str:
    numeric = set(numeric)
    cells = "".join(
        f'<th class="n">{escape(head)}</th>' if index in numeric else f"<th>{escape(head)}</th>"
        for index, head in enumerate(heads)
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _number(text: str) -> str:
    return f'<td class="n">{escape(text)}</td>'


def _band(label: str, accuracy: Accuracy) -> Band:
    return Band(label, accuracy.estimate_micro / MICRO, accuracy.low_micro / MICRO, accuracy.high_micro / MICRO)


def _gap_text(gap: Accuracy | None) -> str:
    if gap is None:
        return "unknown"
    return f"{gap.estimate_micro / MICRO:.1%} ({percent_span(gap.low_micro, gap.high_micro)})"


def _bounds_text(certificate: Certificate) -> str:
    policy = certificate.policy
    return f"{policy.floor_micro / MICRO:g} to {policy.cap_micro / MICRO:g} of the equal share"


def _epsilon_of(silo: SiloFacts) -> str:
    bound = f" ({_epsilon(silo.epsilon_bound_micro)})" if silo.epsilon_bound_micro > silo.epsilon_micro else ""
    return _epsilon(silo.epsilon_micro) + bound


def _epsilon(micro: int) -> str:
    """Three decimals, rounded up: it is a privacy figure."""
    return f"{-(-micro // 1000) / 1000:.3f}"


def _evidence(row: RoundSilo) -> int | None:
    return max((score.evidence_micro for score in row.scores if score.evidence_micro is not None), default=None)
