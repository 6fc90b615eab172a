# Portero's commands; `make` alone lists them. Each does its own set-up.
# A recipe is one process wherever it can be, so that a signal to make reaches what it runs.

PYTHON ?= python3
# Narrows the Python tests: make unit T=tests/unit/issuer/test_tokens.py
T ?=
# Another measurement than the judged request's: make bench B=issuer
B ?=

BIN := .venv/bin
LUA_SPECS := tests/unit/lua
BUSTED := LUA_PATH="openresty/lua/?.lua;$(LUA_SPECS)/?.lua;;" busted --lua=/usr/bin/luajit

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

##@ Running
.PHONY: run admin
run: ## the whole stack in the foreground; Ctrl-C stops it all (RUNTIME= GATEWAY_PORT=8080 DATA_DIR=var LLM_UPSTREAM=)
	@exec $(PYTHON) -m run

# The words go as they are through the environment: neither make nor a shell reads them.
admin: override export ARGS := $(value ARGS)
admin: ## a command for the stack that runs on DATA_DIR: make admin ARGS="revoke --user NAME" (alone: which there are)
	@exec $(PYTHON) -m run admin

.PHONY: install uninstall
install: ## as services of systemd, with settings in /etc/portero; again: the upgrade, without a dropped stream
	@exec $(PYTHON) -m run install

uninstall: ## takes the services away; settings and data stay (PURGE=1: they go too)
	@exec $(PYTHON) -m run uninstall

##@ Testing
.PHONY: test unit stack lint typecheck
test: setup-tests ## everything: lint, types, Lua specs, Python tests with coverage (T= narrows)
	@$(MAKE) --jobs=3 --output-sync=target lint typecheck lua
	@exec $(BIN)/python -m $(if $(T),pytest --cov=issuer --cov=sdk/src --cov-report=term-missing:skip-covered $(T),tests.support.both)

unit: setup-tests $(if $(T),,lua) ## the tests that start nothing: Lua specs and tests/unit (T= narrows)
	@exec $(BIN)/python -m $(if $(T),pytest $(T),tests.support.both unit)

stack: setup-tests ## the tests against a running stack: tests/stack (T= narrows)
	@exec $(BIN)/python -m pytest $(or $(T),tests/stack)

lint: setup-tests ## ruff, luacheck, hadolint, and the layers that import-linter holds
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@luacheck openresty/lua $(LUA_SPECS) tests/security bench
	@$(BIN)/hadolint $(wildcard */Dockerfile)
	@$(BIN)/lint-imports

typecheck: setup-tests ## mypy, strict
	@$(BIN)/mypy
	@$(BIN)/mypy --python-version 3.10 sdk/src

##@ Measuring
.PHONY: bench chaos fuzz
bench: setup-tests ## what a judged request costs, against plain nginx (B=bodies, streams, …: another; docs/performance.md)
	@exec $(BIN)/python -m bench$(addprefix .,$(B))

chaos: setup-tests ## the promises at full size, with a table of figures (about an hour)
	@PORTERO_CHAOS=1 exec $(BIN)/python -m pytest tests/promises --timeout 3600

fuzz: setup-tests ## a million mutated tokens against both verifiers, and bodies against their readers
	@PORTERO_FUZZ=1000000 exec $(BIN)/python -m pytest tests/security tests/unit --timeout 3600

##@ Housekeeping
.PHONY: screenshots
screenshots: setup-tests ## the README's two pictures, anew (Chromium; CHROMIUM= names it)
	@exec $(BIN)/python -m tests.browser.screenshots

.PHONY: clean help setup-tests lua
clean: ## remove what set-up and tests made; DATA_DIR stays
	@rm -rf .venv .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis htmlcov
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Not for the list: parts of the above.
setup-tests:
	@$(PYTHON) -m run set-up-tests

# Each file in a process of its own, as many at once as there are cores here and in CI.
lua:
	@printf '%s\n' $(LUA_SPECS)/*_spec.lua | xargs -n 1 -P 2 env $(BUSTED)
