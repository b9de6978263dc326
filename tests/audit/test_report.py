import re
from html.parser import HTMLParser

import pytest

from audit import charts
from audit.certificate import certify
from audit.report import _ranges, render
from protos.records import Conviction
from tests.audit.builders import HandMade, even, judged

SILOS = ("ada", "bob", "cyd", "dan", "eve")
HOSTILE = "</td><script>alert(1)</script><img src=x onerror='alert(\"2\")'>&amp;"


class Outline(HTMLParser):
    """Tags, attributes and text of a document; every tag must be closed in order."""

    VOID = ("meta", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def made() -> HandMade:
    made = HandMade({"ada": 450, "bob": 300, "cyd": 220, "dan": 150, "eve": 56})
    liar = Conviction("eve", HOSTILE)
    made.add_round(even(SILOS))
    made.add_round(even(SILOS, dan=judged("dan", 0, "excluded", HOSTILE, 9_000_000)))
    made.add_round(even(SILOS, eve=judged("eve", 0, "convicted", HOSTILE)), convicted=(liar,))
    made.add_round(None, opened=SILOS[:2], result="void", reason=HOSTILE)
    return made


def html(made: HandMade) -> str:
    return render(certify(made.history, made.head))


def test_hostile_reasons_stay_text_wherever_they_appear(made: HandMade) -> None:
    outline = Outline(html(made))
    assert not {"script", "img", "iframe", "link", "object"} & set(outline.tags)
    assert "".join(outline.texts).count(HOSTILE) == 4  # silo table, two verdicts, the void round


def test_hostile_labels_stay_text_in_charts() -> None:
    drawn = (
        charts.weight_chart(HOSTILE, [charts.WeightPoint(1, 3, 1, 4)])
        + charts.accuracy_chart([charts.Band(HOSTILE, 0.5, 0.4, 0.6)])
        + charts.verdict_chart([(HOSTILE, [(1, HOSTILE)])], 1)
    )
    assert set(Outline(drawn).tags) <= {"svg", "text", "line", "path", "circle", "rect", "title"}


def test_report_needs_nothing_from_outside(made: HandMade) -> None:
    page = html(made)
    outline = Outline(page)
    assert not [name for name, _ in outline.attributes if name in ("src", "href", "onload", "onerror", "xlink:href")]
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_report_names_every_silo_clause_and_limit(made: HandMade) -> None:
    certificate = certify(made.history, made.head)
    text = "".join(Outline(render(certificate)).texts)
    for silo in certificate.silos:
        assert silo.silo in text
    for clause in certificate.clauses:
        assert clause.text in text
        assert clause.detail in text
    for sentence in certificate.not_claimed:
        assert sentence in text
    assert certificate.head.head.digest in text
    assert "Policy met" in text


def test_broken_policy_is_said_at_the_top(made: HandMade) -> None:
    made.add_round(tuple(judged(name, 1) for name in SILOS))
    text = "".join(Outline(html(made)).texts)
    assert "Policy NOT met" in text
    assert "Policy met" not in text


def test_log_without_rounds_has_a_report_too() -> None:
    assert "No silo has evaluated a model yet" in html(HandMade({"ada": 3, "bob": 4, "cyd": 5}))


def test_weight_line_has_a_gap_where_the_silo_had_no_weight() -> None:
    points = [charts.WeightPoint(n, w, 1, 4) for n, w in enumerate((2, 2, None, 3), 1)]
    line = re.findall(r'<path d="([^"]*)"', charts.weight_chart("ada", points))[2]
    assert line.count("M") == 2
    assert line.count("L") == 1


def test_thousand_rounds_fit_the_page() -> None:
    marks = [(number, "retained") for number in range(1, 1001)]
    drawn = charts.verdict_chart([("ada", marks)], 1000)
    rightmost = max(float(x) for x in re.findall(r'<rect x="([0-9.]+)"', drawn))
    assert rightmost < 860


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([4], "4"), ([1, 2], "1-2"), ([1, 2, 3, 7, 9, 10], "1-3, 7, 9-10"), ([3, 3, 4], "3-4")],
)
def test_round_ranges_are_short(numbers: list[int], text: str) -> None:
    assert _ranges(numbers) == text
