"""The report's part on searches: each find with its picture, and every silo's part in it, for who appeals."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from audit.certificate import Certificate
from audit.find_table import HONEST, LEVELS, table_of
from audit.findings import FindFacts, PartFacts, SearchFacts, described, support
from audit.pictures import svg

_MOST_ROUNDS = 8

_NOTE = (
    '<p class="note">Numbers are in standard deviations of the silo\'s own privacy noise: per round how far its update '
    "moves the model towards the trigger, and z, how far all its rounds together lie above what the others show. "
    f"{HONEST} Only who does not is convicted, from the z that stands below the silos, and nobody for a flip between "
    "classes that are alike, for a trigger that covers more than a quarter of the input, or in a task of two classes. "
    "The others are all silos that nothing in the log convicts. The newest rounds are shown; the certificate has them "
    "all. Silos sign for the numbers per round, because only they have the models; whoever has the log repeats what "
    "follows.</p>"
)


def searches(certificate: Certificate) -> str:
    """The section's HTML."""
    if certificate.search is None:
        return '<p class="note">search: none. The task has no public root set, so nobody searched the model.</p>'
    if not certificate.searches:
        return '<p class="note">No model has been searched yet.</p>'
    rows = "".join(_row(one) for one in certificate.searches)
    heads = "".join(f"<th>{name}</th>" for name in ("After round", "Model", "Result", "Reports", "Silent"))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    finds = "".join(_find(one, find) for one in certificate.searches for find in (*one.finds, *one.standing))
    return table + finds + (_NOTE if finds else "")


def _row(facts: SearchFacts) -> str:
    said = {"clean": "nothing confirmed", "few": "too few reports", "open": "under way"}
    said["blind"] = "the model is right too seldom to be searched"
    if facts.result == "answered":
        said["answered"] = f"{len(facts.finds)} confirmed, none that forbids a release"
    result = said.get(facts.result, f"{len(facts.finds)} confirmed")
    more = f", {facts.unconfirmed} not" if facts.unconfirmed else ""
    cells = (str(facts.round), facts.model[:16], result + more, str(facts.reports), ", ".join(facts.silent))
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _find(facts: SearchFacts, find: FindFacts) -> str:
    text = f"{described(find.trigger)}; {support(facts, find)}; {find.agreeing} of {find.tables} tables agree."
    return f"<h3>After round {facts.round}: {escape(text[0].upper() + text[1:])}</h3>{svg(find.trigger)}{_parts(find)}"


def _parts(find: FindFacts) -> str:
    if not find.parts:
        return ""
    made = table_of(find, _MOST_ROUNDS)
    rows = [_line(_mark(part), cells) for part, cells in made.silos]
    if made.levels:
        rows.append(_line(LEVELS, made.levels))
    rows.append(_line("the others: median (range)", made.others))
    head = "".join(f"<th>{escape(name)}</th>" for name in ("Silo", *made.columns))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _mark(part: PartFacts) -> str:
    if part.convicted:
        return f"<b>{escape(part.silo)} (convicted)</b>"
    return escape(part.silo) + (" (convicted of something else)" if part.elsewhere else "")


def _line(first: str, cells: Sequence[str]) -> str:
    return f"<tr><td>{first}</td>{''.join(f'<td class=n>{escape(cell)}</td>' for cell in cells)}</tr>"
