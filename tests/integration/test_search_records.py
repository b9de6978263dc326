"""What the log says of a search that found something: forgeries are refused, appeal and certificate show it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit import attributions, display, show
from audit.certificate import certify, check_certificate
from audit.errors import InvalidCertificate, InvalidRecord
from audit.files import LogFile
from audit.findings import SearchFacts, honest_span
from audit.history import History
from audit.report import render
from protos.codec import decode, encode, pack, unpack
from protos.messages import Attribution
from protos.records import Attributed, Clean, Conviction, Finds, Record, Search, Searched
from protos.task import MICRO
from silo.link import BadSiloDirectory
from silo.overview import _releasable
from tests.integration.bench import Bench, replay
from tests.integration.finds import BOOST, searching, seat_changes

LIAR = "bob"


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A closed federation in which a poisoner was found, went on, and was convicted."""
    federation = searching(tmp_path_factory.mktemp("poisoned"), {LIAR: seat_changes(BOOST)}, rounds=5, every=4)
    federation.run()
    yield federation
    federation.close()


@pytest.mark.parametrize(
    ("cls", "change"),
    [
        (Search, lambda body: dataclasses.replace(body, model="0" * 64)),
        (Searched, lambda body: dataclasses.replace(body, reports=body.reports[:1], silent=())),
        (Searched, lambda body: Clean(body.round, body.model, body.reports, (), body.silent)),
        (Finds, lambda body: Clean(body.round, body.model, (), body.answers, body.silent)),
        (Finds, lambda body: dataclasses.replace(body, confirmed=())),
        (Finds, lambda body: _with_confirmed(body, success_micro=7)),
        (Finds, lambda body: _with_confirmed(body, attributed=False)),
        (Finds, lambda body: dataclasses.replace(body, standing=body.confirmed)),
        (Attributed, lambda body: dataclasses.replace(body, convicted=())),
        (Attributed, lambda body: dataclasses.replace(body, convicted=(Conviction("ada", "we say so"),))),
        (Attributed, lambda body: _with_case(body, agreeing=4)),
        (Attributed, lambda body: _with_parts(body, 200)),
    ],
)
def test_forged_record_of_a_search_is_refused_by_silos_and_auditors(
    tmp_path: Path, poisoned: Bench, cls: type[Any], change: Any
) -> None:
    """Whoever replays the log stops there, coordinator, silo and auditor alike: it is the same reducer."""
    lines = list(LogFile(poisoned.directory / "log.jsonl").records())
    place = max(i for i, data in enumerate(lines) if unpack(Record, data).body["kind"] == cls.KIND)
    history = History()
    for data in lines[:place]:
        history.apply(data)
    record = unpack(Record, lines[place])
    forged = change(decode(cls, record.body))
    with pytest.raises(InvalidRecord):
        history.apply(pack(dataclasses.replace(record, body=encode(forged))))
    history.apply(lines[place])


def _with_confirmed(body: Finds, **changes: Any) -> Finds:
    return dataclasses.replace(body, confirmed=tuple(dataclasses.replace(one, **changes) for one in body.confirmed))


def _with_case(body: Attributed, **changes: Any) -> Attributed:
    return dataclasses.replace(body, cases=tuple(dataclasses.replace(one, **changes) for one in body.cases))


def _with_parts(body: Attributed, more: int) -> Attributed:
    """One score moved by `more` millionths."""
    part = body.cases[0].parts[0]
    score = dataclasses.replace(part.scores[0], value_micro=part.scores[0].value_micro + more)
    parts = (dataclasses.replace(part, scores=(score, *part.scores[1:])), *body.cases[0].parts[1:])
    return _with_case(body, parts=parts)


def test_every_changed_number_of_a_logged_table_breaks_its_signature(poisoned: Bench) -> None:
    lines = list(LogFile(poisoned.directory / "log.jsonl").records())
    place = next(i for i, data in enumerate(lines) if unpack(Record, data).body["kind"] == Attributed.KIND)
    history = History()
    for data in lines[:place]:
        history.apply(data)
    record = unpack(Record, lines[place])
    body = decode(Attributed, record.body)
    signed = body.attributions[0]
    attribution = decode(Attribution, signed.body)
    table = attributions.from_bytes(attribution.tables[0].table or b"").copy()
    table[0] += 1
    made = dataclasses.replace(attribution.tables[0], table=table.tobytes())
    changed = dataclasses.replace(signed, body=encode(dataclasses.replace(attribution, tables=(made,))))
    forged = dataclasses.replace(body, attributions=(changed, *body.attributions[1:]))
    with pytest.raises(InvalidRecord, match="not a signature"):
        history.apply(pack(dataclasses.replace(record, body=encode(forged))))


def test_appeal_shows_trigger_every_rounds_share_and_what_honest_silos_show(
    poisoned: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = show.round_of(LogFile(poisoned.directory / "log.jsonl"), 5)
    display.round_of(facts)
    text = capsys.readouterr().out
    assert "inputs of every other class are taken for class 2 under a mask of 1.0 of 300" in text
    assert "success 100%; borne out by 5 silos, not by 0" in text
    assert "5 of 5 tables agree" in text
    assert "██" in text
    (search,) = facts["searches"]
    parts = {part["silo"]: part for part in search["finds"][0]["parts"]}
    shares = {silo: part["contributions"][0]["sigma_micro"] for silo, part in parts.items()}
    assert [silo for silo, part in parts.items() if part["convicted"]] == [LIAR]
    assert shares[LIAR] > 8 * MICRO
    assert all(abs(share) < 4 * MICRO for silo, share in shares.items() if silo != LIAR)
    assert {row["silo"]: row["state"] for row in facts["silos"]}[LIAR] == "convicted"
    honest = sorted(share / MICRO for silo, share in shares.items() if silo != LIAR)
    assert f"({honest[0]:.1f} to {honest[-1]:.1f})" in text
    (row,) = [row for row in facts["silos"] if row["silo"] == LIAR]
    assert re.fullmatch(r"its updates taught .* for class 2: z = \d+\.\d", row["reason"]), "not that of the decision"


def test_appeal_shows_from_which_z_a_silo_is_convicted_and_leaves_all_convicted_out_of_the_others(
    poisoned: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first search convicts nobody yet; whom a later one convicts is still no example of an honest silo in it."""
    log = LogFile(poisoned.directory / "log.jsonl")
    first = min(view.search.round for view in poisoned.history.searches)
    facts = show.round_of(log, first)
    display.round_of(facts)
    text = capsys.readouterr().out
    find = decode(SearchFacts, facts["searches"][0]).finds[0]
    liar, *_ = [part for part in find.parts if part.silo == LIAR]
    assert (liar.convicted, liar.elsewhere) == (False, True)
    least, _, greatest = honest_span(find.parts, first) or (0.0, 0.0, 0.0)
    mine = liar.contributions[-1].sigma_micro / MICRO
    assert least <= greatest < 4 < mine
    assert f"({least:.1f} to {greatest:.1f})" in text
    assert {score.name: round(score.value_micro / MICRO, 1) for score in find.levels} == {
        "after-z": 6.6,
        "before-z": 8.9,
    }
    assert "elsewhere" in text


def test_certificate_and_report_of_a_federation_with_a_find(poisoned: Bench) -> None:
    history = replay(poisoned)
    head = LogFile(poisoned.directory / "log.jsonl").head()
    assert head is not None
    certificate = certify(history, head)
    assert certificate.met
    assert certificate.released is None
    (clause,) = [clause for clause in certificate.clauses if clause.name == "search"]
    assert clause.detail == "2 searches, 2 finds; no model was released, because no search of one was clean"
    check_certificate(pack(certificate), history)
    with pytest.raises(InvalidCertificate, match="no model was released"):
        check_certificate(pack(certificate), history, b"")
    page = render(certificate)
    assert page.count('aria-label="inputs of every other class are taken for class 2') == 2, "one of each search"
    assert f"<b>{LIAR} (convicted)</b>" in page
    assert "the others: median (range)" in page


def test_model_without_a_clean_search_is_not_exported(poisoned: Bench) -> None:
    with pytest.raises(BadSiloDirectory, match="no model may be released: every search found a trigger"):
        _releasable(poisoned.history, "ada")
