PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help install serve test check test-slow check-savings evidence evidence-report reference

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## Make the virtual environment (does nothing when it is there)
	@$(PYTHON) scripts/install.py $(VENV)

serve: install ## Serve the reference models on port 8000; ARGS="--model ... --dm ..." for others
	@$(BIN)/drr serve $(ARGS)

test: install check ## Lint, type-check and run the tests
	$(BIN)/python -m pytest $(ARGS)

check: install ## Lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-slow: install ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

check-savings: install ## Measure accuracy and tokens on the 600 reference test questions that are in distribution
	$(BIN)/python -m benchmarks.savings $(ARGS)

evidence: install ## Compare strategies on the reference test questions, then write the README's tables (hours)
	$(BIN)/python -m benchmarks.evidence $(ARGS)

evidence-report: install ## Write the README's tables and pictures from the recorded outcomes
	$(BIN)/python -m benchmarks.evidence --report $(ARGS)

reference: install ## Build the reference Reasoner and DM from nothing (some hours on two cores)
	$(BIN)/drr reference build $(ARGS)
