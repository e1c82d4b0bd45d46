# tokenloom: every target sets up .venv first if it is missing or older than pyproject.toml.

PROMPT     ?= What is 2 + 2?
MODEL      ?= smollm2
BOARD      ?= sim
MAX_TOKENS ?= 64
PYTHON     ?= python3
OUT        ?= build/$@

export PROMPT

VENV  := .venv
STAMP := $(VENV)/.stamp
BIN   := $(VENV)/bin
LINKS := build/ns/tokenloom

# What differs from pyproject's defaults belongs on the command line: `make test ARGS="-k array"`.
ARGS ?=

# Only a whole table is written to the documentation.
BENCH_OUT = $(if $(findstring --only,$(ARGS)),,--markdown docs/benchmarks.md)

# A model that was not asked for by name may be replaced by the shipped one if it cannot be fetched.
CHOSEN_MODEL = $(if $(filter file,$(origin MODEL)),,--model "$(MODEL)")

.DEFAULT_GOAL := help
.PHONY: help setup run test generate blocks synth sim lint bench estimate verify clean
.DELETE_ON_ERROR:

help: ## Show this list
	@echo "make <target> [PROMPT=...] [MODEL=$(MODEL)] [BOARD=$(BOARD)] [MAX_TOKENS=$(MAX_TOKENS)] [ARGS=...]"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' Makefile | \
	  while IFS='|' read -r name text; do printf '%-12s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## Create .venv and install everything from PyPI

run: $(STAMP) ## Let the generated chip answer PROMPT, simulated by Verilator
	@$(BIN)/tokenloom run $(CHOSEN_MODEL) --board "$(BOARD)" --prompt "$$PROMPT" \
	  --max-tokens $(MAX_TOKENS) $(ARGS)

test: $(STAMP) ## Run every test
	@$(BIN)/python -m pytest -n 2 $(ARGS)

generate: $(STAMP) ## Write the chip's Verilog for BOARD and MODEL to build/generate, or BLOCK's to build/generate-BLOCK
	@$(BIN)/tokenloom generate $(if $(BLOCK),--block "$(BLOCK)" $(if $(PRESET),--preset "$(PRESET)"),--model "$(MODEL)" --board "$(BOARD)") \
	  --out "$(if $(BLOCK),$(OUT)-$(BLOCK),$(OUT))" $(ARGS)

blocks: $(STAMP) ## Write the page of every block that can be used alone: docs/blocks
	@$(BIN)/tokenloom blocks --markdown docs/blocks

synth: $(STAMP) ## Write the Vivado and Vitis project of BOARD=u280|u55c|vck5000 to build/synth
	@$(BIN)/tokenloom synth --board "$(if $(filter file,$(origin BOARD)),u280,$(BOARD))" \
	  --out "$(OUT)/$(if $(filter file,$(origin BOARD)),u280,$(notdir $(BOARD)))" $(ARGS)

sim: $(STAMP) ## Run the cocotb regression of the blocks in Verilator
	@$(BIN)/python -m pytest -n 2 tests/hw $(ARGS)

lint: $(STAMP) ## Check style (ruff) and types (mypy)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@mkdir -p $(LINKS)
	@for p in hw compiler sim host; do ln -sfn ../../../$$p $(LINKS)/$$p; done
	@MYPYPATH=build/ns $(BIN)/python -m mypy

bench: $(STAMP) ## Measure every figure of docs/benchmarks.md
	@$(BIN)/tokenloom bench --jobs 2 --json build/bench.json $(BENCH_OUT) $(ARGS)

estimate: $(STAMP) ## Derive rates and contexts of every board and model: docs/estimates.md
	@$(BIN)/tokenloom estimate --markdown docs/estimates.md $(ARGS)

verify: lint ## Check style and types, and run every test with its deep cases; goes on where it was
	@$(BIN)/python scripts/verify.py $(ARGS)

clean: $(STAMP) ## Remove what was built (.venv stays; remove it by hand)
	rm -rf build dist
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name '*.egg-info' -o -name .ruff_cache \) \
	  -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: tokenloom needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "       Name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV): installing tokenloom and its dependencies (one to three minutes, once)..."
	@rm -f $@
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@
