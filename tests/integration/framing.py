"""Liars' tables that frame a silo, in whole federations."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from audit import attributions
from protos.rounds import Phase
from silo import duties


class Framing:
    """Makes liars' tables say, after they were computed, that the victim taught the trigger and others unlearn it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, liars: tuple[str, ...], victim: str) -> None:
        real = duties._DUTIES[Phase.ATTRIBUTING]

        def attribute(desk: Any, history: Any) -> Any:
            body = real(desk, history)
            if desk.identity.name not in liars:
                return body
            tables = tuple(self._framed(history, made, victim) for made in body.tables)
            return dataclasses.replace(body, tables=tables)

        monkeypatch.setitem(duties._DUTIES, Phase.ATTRIBUTING, attribute)

    def _framed(self, history: Any, made: Any, victim: str) -> Any:
        target = history.search.trigger(made.find).target
        parts = attributions.split(history, history.search, attributions.from_bytes(made.table))
        for view, part in zip(attributions.past(history, history.search), parts, strict=True):
            silos = list(attributions.judged(view))
            for liar in set(silos) - {victim}:
                part[silos.index(liar), target] = -(10**8)
            part[silos.index(victim), target] = 10**9
        return dataclasses.replace(made, table=np.concatenate([part.ravel() for part in parts]).tobytes())
