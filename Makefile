PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
WORKERS ?= 2
VLLM ?= 0.32.0 0.33.0
COVERED ?= tests/loop tests/tasks tests/judge tests/engine tests/learn tests/certify tests/evaluate tests/cli tests/clients tests/server

.PHONY: help install serve test check check-vllm audit docs coverage test-slow test-browser check-savings evidence evidence-report evidence-real reference

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## Make the virtual environment (does nothing when it is there)
	@$(PYTHON) scripts/install.py $(VENV)

serve: install ## Serve the reference models on port 8000; ARGS="--model ... --dm ..." for others
	@echo "Starting the server. It takes about a minute on two cores, and ends with the address of its page."
	@$(BIN)/drr serve $(ARGS)

test: install check ## Lint, type-check and run the tests, WORKERS files at a time (each may start an engine or two)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: install check-vllm audit ## Lint and type-check, look up what is used of vLLM, and known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy scripts/check_vllm.py
	$(BIN)/mypy scripts/audit.py scripts/sbom.py
	$(BIN)/mypy scripts/docs_site.py scripts/module_map.py scripts/install.py scripts/notebook.py scripts/stranger.py
	$(BIN)/codespell
	$(BIN)/pymarkdown scan README.md docs

audit: install ## Look up known vulnerabilities of what DRR needs (skipped where no service answers)
	@$(BIN)/python scripts/audit.py; status=$$?; \
	if [ $$status -eq 3 ]; then echo "Vulnerabilities were not looked up: no service answered"; \
	elif [ $$status -ne 0 ]; then exit $$status; fi

docs: install ## Build the pages of docs/ into site/; every warning and every broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The pages are in site/index.html"

check-vllm: install ## Look up every name of vLLM that is used in VLLM's versions (skipped where no package index answers)
	@for version in $(VLLM); do \
	  $(BIN)/python scripts/check_vllm.py $$version; status=$$?; \
	  if [ $$status -eq 3 ]; then echo "vLLM $$version was not checked: no package index answered"; \
	  elif [ $$status -ne 0 ]; then exit $$status; fi; \
	done

coverage: install ## Measure branch coverage of everything that runs without an engine, by package
	$(BIN)/python -m pytest -q --cov --cov-branch --cov-report= $(COVERED) $(ARGS)
	$(BIN)/python scripts/coverage_by_package.py

test-slow: install ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

test-browser: install ## Drive the page at / with Chromium (Debian: apt-get install chromium), against a played server and a real one
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/playground $(ARGS)

check-savings: install ## Measure accuracy and tokens on the 600 reference test questions that are in distribution
	$(BIN)/python -m benchmarks.savings $(ARGS)

evidence: install ## Compare strategies on the reference test questions, then write the tables of docs/evidence-reference.md (hours)
	$(BIN)/python -m benchmarks.evidence $(ARGS)

evidence-report: install ## Write the tables and pictures of docs/evidence-reference.md from the recorded outcomes
	$(BIN)/python -m benchmarks.evidence --report $(ARGS)

evidence-real: install ## The same on a real model and real questions (many hours); ARGS="--reasoner ... --set ...", ARGS=--report
	$(BIN)/python -m benchmarks.real $(ARGS)

reference: install ## Build the reference Reasoner and DM from nothing (some hours on two cores)
	$(BIN)/drr reference build $(ARGS)
