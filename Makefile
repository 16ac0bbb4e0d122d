# What a person does here. `make` alone lists it.
# Variables (.env.example names them) may stand on the command line: make up WEB_PORT=8001

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# A person at this machine tries things out, unless they say otherwise: here, in the environment or in .env.
ifeq ($(origin DEBUG)$(shell grep -sE '^(export )?DEBUG=' .env),undefined)
export DEBUG := true
endif

# Where bytecode is not kept, each of the many processes that tests start would compile the project again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help up down demo test simulate lint format check audit chaos bench screenshots package lock clean
.DEFAULT_GOAL := help

help: ## List these
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

up: $(VENV)/installed ## Start the whole shop on this machine; Ctrl-C stops it
	@$(BIN)/python manage.py up

down: $(VENV)/installed ## Stop it, also what is left of one that was killed
	@$(BIN)/python manage.py down

demo: $(VENV)/installed ## Start the shop, place five orders, check how each ended, stop
	@$(BIN)/python manage.py demo

# ALL=1 runs the slow ones too, most of which wait for other processes; JOBS=2 tests at a time, 3 with ALL=1
test: $(VENV)/installed-dev ## Run the tests
	@PYTEST_ADDOPTS="--numprocesses $(or $(JOBS),$(if $(ALL),3,2)) --dist worksteal $(PYTEST_ADDOPTS)" $(BIN)/python manage.py test

# SEEDS=1000 FIRST_SEED=1; JOBS=2 processes; ONLY=3,7,12 of a seed's actions; PLANT=no_inbox, a bug on purpose;
# COVER=1 fails unless every line of the reactions was visited; JSON=1
simulate: $(VENV)/installed-dev ## Live through SEEDS histories in which everything goes wrong
	@$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST_SEED),--first-seed $(FIRST_SEED)) \
	  $(if $(JOBS),--jobs $(JOBS)) $(if $(ONLY),--only $(ONLY)) $(if $(PLANT),--plant $(PLANT)) $(if $(COVER),--cover) \
	  $(if $(JSON),--json)

lint: $(VENV)/installed-dev ## Check style, types and the direction of imports
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --diff .
	$(BIN)/mypy .
	$(BIN)/lint-imports

format: $(VENV)/installed-dev ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# Settings named here win over those of a .env file.
PRODUCTION = DEBUG=false HTTPS=true SECRET_KEY="$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(50))')"

check: $(VENV)/installed ## Check migrations, the project, and the project under production settings
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py check
	$(PRODUCTION) $(BIN)/python manage.py check --deploy --fail-level WARNING

# OSV_URL=https://... asks a copy of osv.dev. Fails if there are any, and if nobody answers.
audit: $(VENV)/installed-dev ## Look up known vulnerabilities of the packages that production installs
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && { \
	  printf '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n'; \
	  sed -nE 's/^([^ #]+==[^ ;\\]+).*/#   "\1",/p' requirements.txt requirements-otel.txt | sort -u; \
	  printf '# ]\n# ///\n'; } > "$$folder/production" && \
	  $(BIN)/uv audit --preview-features audit-command --script "$$folder/production" $(if $(OSV_URL),--service-url $(OSV_URL))

chaos: $(VENV)/installed-dev ## Place orders under faults of every kind, on servers of its own; check what came of it
	@$(BIN)/python -m tests.chaos

bench: $(VENV)/installed-bench ## Measure the shop beside what people would write instead: bench/README.md
	@$(BIN)/python -m bench

screenshots: $(VENV)/installed-dev ## Take the pictures of the README and of the documentation
	@$(BIN)/python -m docs.screenshots

package: $(VENV)/installed-dev ## Build the package django-choreography into dist/
	$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist choreography

LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --custom-compile-command 'make lock'

lock: $(VENV)/installed-dev ## Lock the requirements again after a change to a .in file
	$(LOCK) requirements.in --output-file requirements.txt
	$(LOCK) requirements-dev.in --constraints requirements.txt --output-file requirements-dev.txt
	$(LOCK) requirements-otel.in --constraints requirements.txt --output-file requirements-otel.txt
	$(LOCK) bench/requirements.in --constraints requirements-dev.txt --output-file bench/requirements.txt

clean: ## Remove what was installed and built; orders and accounts in var/ stay
	rm -rf $(VENV) dist staticfiles .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The virtual environment: made anew whenever a lock changes -----------------------------------------------------

$(VENV)/installed: requirements.txt
	$(if $(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),,$(error \
	  This needs Python 3.11 or newer, and $(PYTHON) is older or missing. Name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3))
	$(if $(shell $(PYTHON) -c 'import ensurepip, venv; print("yes")' 2>/dev/null),,$(error \
	  $(PYTHON) lacks its venv module. On Debian and Ubuntu: apt install python3-venv))
	@$(PYTHON) -m venv --clear $(VENV)
	$(call install,requirements.txt)
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(call install,requirements-dev.txt)
	@touch $@

$(VENV)/installed-bench: bench/requirements.txt $(VENV)/installed
	$(call install,bench/requirements.txt)
	@touch $@

# Programs of others in JavaScript, for a few of the tests.
$(VENV)/installed-node: tests/node/package-lock.json $(VENV)/installed
	npm ci --prefix tests/node --no-audit --no-fund --loglevel=error
	@touch $@

# Pip's own output is long: a dot per package, and all it said if it fails.
define install
@printf 'Installing %s into %s ' $(1) $(VENV)
@{ $(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r $(1) 2>&1 && echo Installed; } | { \
  status=1; \
  while read -r line; do \
    echo "$$line" >> $(VENV)/install.log; \
    case "$$line" in Collecting*) printf . ;; Installed) status=0 ;; esac; \
  done; \
  echo; [ $$status = 0 ] || cat $(VENV)/install.log >&2; exit $$status; }
endef
