PYTHON ?= python3
BIN := .venv/bin
CTRBENCH := $(BIN)/ctrbench

.PHONY: install demo test fuzz kill lint types docs docs-site bench bench-peers clean

install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(CTRBENCH) prepare movielens-1m
	mkdir -p demo
	cd demo && ../$(CTRBENCH) run --dataset movielens-1m --methods plain,maml,star,apg,adasparse --backbone dnn,dcnv2 --epochs 2
	cd demo && ../$(CTRBENCH) report --dataset movielens-1m --bins 5

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# The tests of a file go to one process, so that what they share, such as a cluster, is made once; and files in their
# order, so that the long ones do not come last.
test: lint types
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The long form of tests/fuzz: FACTOR times the cases of `make test`, more than 5,000, and a count of each failure.
FACTOR ?= 10
fuzz: install
	CTRBENCH_FUZZ_FACTOR=$(FACTOR) $(BIN)/pytest tests/fuzz -n 2 --dist loadfile

# KILLS processes are killed; the same command again must end bit-identical. ARGS: --seed, --only.
KILLS ?= 100
kill: install
	$(BIN)/python benchmarks/kills.py --kills $(KILLS) $(ARGS)

# docs/methods/, one page per method and backbone.
docs: install
	$(BIN)/python -m ctrbench.plugins.pages

# The documentation site, in site/; warnings such as a broken link are errors.
docs-site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: install
	$(BIN)/pytest tests/bench --override-ini addopts=--import-mode=importlib --benchmark-only -p no:xdist

# ARGS: --only GROUP, --fuxictr PATH, --scenario-wise-rec PATH, --trial; all with --help.
bench-peers: install
	$(BIN)/python benchmarks/bench_peers.py $(ARGS)

clean:
	rm -rf .venv .venv-peers demo
