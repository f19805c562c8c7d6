# SPDX-License-Identifier: LGPL-2.1-or-later
# What is done here often. Each target sets up what it needs.

PYTHON := .venv/bin/python
ARGS :=
SECONDS := 300

.DEFAULT_GOAL := help
.PHONY: help setup check test test-kernel test-guest test-debian13 lint format coverage \
	seconds demo bench attack crash datapath flood fuzz varlink news clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 15

setup: ## make .venv; as root on Debian, install missing packages
	@tools/setup

check: lint ## lint and the unit tests, with fewer examples: in a minute
	@$(PYTHON) -m pytest --quiet -p no:cacheprovider --hypothesis-profile=check \
		--numprocesses=auto --dist=worksteal tests/unit $(ARGS)

test: lint ## lint, then run all tests; ARGS="-k name" chooses among them
	@tools/test $(ARGS)

test-kernel: setup ## the tests with real devices, in namespaces
	@$(PYTHON) -m pytest -p no:cacheprovider tests/kernel $(ARGS)

test-guest: setup ## the tests with booted guests
	@$(PYTHON) -m pytest -p no:cacheprovider tests/guest $(ARGS)

coverage: setup ## lines and branches that the unit tests reach
	@rm -rf .cache/coverage
	@$(PYTHON) -m coverage run -m pytest --quiet -p no:cacheprovider \
		--hypothesis-profile=check $(or $(ARGS),tests/unit)
	@$(PYTHON) -m coverage combine --quiet
	@$(PYTHON) -m coverage report

seconds: setup ## run all tests, and note in tests/seconds.json how long each file takes
	@tools/test --measure

test-debian13: ## check, kernel tests and the demo, in a Debian 13 of its own
	@tools/debian13 make check test-kernel demo

lint: setup ## ruff and mypy
	@$(PYTHON) -m ruff check --quiet
	@$(PYTHON) -m ruff format --check --quiet
	@$(PYTHON) -m mypy --no-error-summary

format: setup ## let ruff put the source in order
	@$(PYTHON) -m ruff check --quiet --fix
	@$(PYTHON) -m ruff format

demo: setup ## two guests of an ordinary user on a network, in a minute
	@$(PYTHON) tools/demo.py $(ARGS)

bench: setup ## how fast it is, next to qemu-bridge-helper
	@$(PYTHON) benchmarks/run.py $(ARGS)
	@$(PYTHON) benchmarks/decision.py $(filter --quick,$(ARGS))
	@$(PYTHON) benchmarks/guard.py $(filter --quick,$(ARGS))

attack: setup ## attack it as users would, and QEMU's helper beside it
	@$(PYTHON) tools/attacks.py $(ARGS)

datapath: setup ## what a port's checks cost a frame, and a guest
	@$(PYTHON) benchmarks/datapath.py $(ARGS)
	@$(PYTHON) benchmarks/vmm.py $(ARGS)

flood: setup ## what one user's flood does to another's attach
	@$(PYTHON) benchmarks/flood.py $(ARGS)

fuzz: setup ## feed the wire and every parser for SECONDS (300)
	@$(PYTHON) tools/fuzz/run.py --seconds $(SECONDS) $(ARGS)

crash: setup ## kill the broker under load, ARGS=--kills=200 times, and compare
	@$(PYTHON) tools/crash.py $(ARGS)
	@TAPSTER_CRASH_STRIDE=1 $(PYTHON) -m pytest -q tests/kernel/test_crash.py

news: setup ## collect news.d/ into NEWS.md, for a release
	@$(PYTHON) tools/news.py $(ARGS)

varlink: setup ## write .varlink, wire/errors.py, client/fields.py from their sources
	@$(PYTHON) -m tapster.wire.generate

clean: ## remove all that was made here
	rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache dist
	find src tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +
