# Every target works on a fresh clone: the virtual environment is made on first use.
PY := .venv/bin/python
STAMP := .venv/.stamp

.PHONY: setup demo test test-unit ray test-ray nightly check wire bench-crypto bench-round bench-defenses bench-search bench-redteam clean

DATA ?= ../shared/data
# Long cells first, so that no core waits at the end.
SWEEPS := $(patsubst %,redteam/scenarios/%.toml,h a c f e g)

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	python3 -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet torch==2.13.0
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: setup
	$(PY) -m tools.demo

# A process for each core, with one thread; all tests of a file in one, since they share what is slow to make.
test: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-unit: setup
	$(PY) -m pytest -m "not torch and not processes and not data and not integration"

ray: setup
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev,ray]'

# Sweeps on a local Ray, whose packages take 250 MB.
test-ray: ray
	$(PY) -m pytest -m nightly tests/nightly/test_ray.py

# Minutes to an hour: ten thousand federations against plain integers, and ten minutes of fuzzing.
nightly: ray
	$(PY) -m pytest -m nightly
	$(PY) -m tests.nightly.fuzz all --seconds 600

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) -m tools.wire --check

wire: setup
	$(PY) -m tools.wire

bench-crypto: setup
	$(PY) -m tools.bench_crypto

# Five minutes: rounds of ResNet-18's size between processes, beside plain averaging. SILOS=10 for the coordinator.
bench-round: setup
	$(PY) -m tools.bench_round --silos $(or $(SILOS),5)

bench-defenses: setup
	$(PY) -m tools.bench_defenses

bench-search: setup
	$(PY) -m tools.bench_search --data $(DATA)

# The small tables of the red team, run anew: goal beside measured.
bench-redteam: setup
	rm -rf build/bench/cells
	$(PY) -m redteam.cli sweep $(SWEEPS) --out build/bench/cells --data $(DATA)
	$(PY) -m redteam.cli table $(SWEEPS) --out build/bench/cells --json build/bench/redteam.json

clean:
	rm -rf build .venv
