# `make` shows what there is to make.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
FORMATS := $(VENV)/formats
MAKEFLAGS += --no-print-directory

RELEASES := trixie sid

.PHONY: help demo test test-slurm-versions test-slurm-versions-quick test-pyslurm check lint generated bench deb test-deb test-nfs packages test-packages venv install clean
.NOTPARALLEL:

help:
	@echo 'make demo   [ARGS=--json]      start a Slurm cluster here, train, break a GPU, watch the recovery'
	@echo 'make test   [PYTEST_ARGS=...]  check, then every test, also those on a real Slurm cluster'
	@echo 'make test-slurm-versions       the tests that drive Slurm, on Slurm 24.11 and 26.05 (Debian trixie and sid; as root)'
	@echo 'make test-pyslurm SOURCE=DIR   the contract of Slurm by pyslurm, on a Slurm 25.11 built from that source tree'
	@echo 'make check                     ruff, mypy, import-linter (make lint is the same)'
	@echo 'make generated                 completions/, man/ and the table of settings, from the code'
	@echo 'make bench  NAME="recovery"    run benchmarks; a table on stderr, JSON on stdout'
	@echo 'make deb                       Debian packages in dist/; make test-deb tries them on Debian 12 and 13'
	@echo 'make test-nfs                  doctor, journal and cache of images on real NFS, in a Linux that runs as a program (as root)'
	@echo 'make install                   only install what the others need: packages and $(VENV)'
	@echo 'make clean                     remove $(VENV) and caches'

demo: packages $(STAMP)
	@$(BIN)/sovctl lab demo $(ARGS)

test: test-packages check $(FORMATS)
	@sh scripts/test.sh $(BIN)/python $(PYTEST_ARGS)

# What drives Slurm, or what only one release of Debian has (apptainer); all that is left out here needs no Slurm, or only this checkout.
SLURM_TESTS := tests/cli/test_doctor_isolation.py tests/contract/test_slurm.py tests/contract/test_slurm_pool.py tests/contract/test_known_names.py tests/contract/test_rank_processes.py \
	tests/contract/test_kept_alive.py tests/contract/test_isolated_steps.py tests/slurm tests/plugins
QUICK_TESTS := tests/slurm/test_stories.py tests/contract/test_slurm.py tests/slurm/test_job_kinds.py tests/slurm/test_expedite.py

# All of them, also after one that failed: what a newer one says is no less worth knowing. Status 69: its root directory cannot be
# made, because the archive is away or has moved on, which is no fault of the code; that release is then not tested, and named.
on_every_release = failed= away=; \
	for release in $(RELEASES); do \
		status=0; began=$$(date +%s); sh scripts/slurm_release.sh $$release $(1) $(PYTEST_ARGS) || status=$$?; \
		case $$status in 0) ;; 69) away="$$away $$release" ;; *) failed="$$failed $$release" ;; esac; \
		[ $$status -eq 69 ] || echo "sovctl: the tests on $$release took $$(($$(date +%s) - began)) s" >&2; \
	done; \
	[ -z "$$away" ] || echo "sovctl: not tested, for want of a root directory:$$away" >&2; \
	[ -z "$$failed" ] || { echo "sovctl: tests failed on$$failed" >&2; exit 1; }

test-slurm-versions:
	@$(call on_every_release,$(SLURM_TESTS))

test-slurm-versions-quick:
	@$(call on_every_release,-n 3 --dist loadgroup --no-loadscope-reorder $(QUICK_TESTS))

test-pyslurm:
	@sh scripts/slurm_from_source.sh 25.11 $(SOURCE)
	@sh scripts/with_slurm.sh 25.11 -m pytest tests/contract/test_slurm.py tests/contract/test_slurm_api.py $(PYTEST_ARGS)

check lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generated: $(STAMP)
	$(BIN)/python scripts/generated.py

bench: packages $(STAMP)
	@sh scripts/bench.sh $(BIN)/python $(NAME)

deb: packages $(STAMP)
	@sh scripts/deb.sh $(BIN)/python

test-deb: packages $(STAMP)
	@sh scripts/packages.sh mmdebstrap lintian
	@SOVCTL_TEST_DEB=1 $(BIN)/python -m pytest tests/deb $(PYTEST_ARGS)

NFS := /var/cache/sovctl/nfs

test-nfs: $(STAMP)
	@sh scripts/nfs.sh $(NFS)
	@SOVCTL_TEST_NFS=$(NFS) $(BIN)/python -m pytest tests/nfs $(PYTEST_ARGS)

packages:
	@sh scripts/packages.sh

test-packages:
	@sh scripts/packages.sh tests

venv: $(STAMP)

install: packages $(STAMP)

$(STAMP): pyproject.toml scripts/python.sh
	@sh scripts/python.sh $(VENV)

$(FORMATS): $(STAMP) tests/formats/requirements.txt
	@sh scripts/python.sh $(VENV) formats

clean:
	rm -rf $(VENV) build dist plugins/spank/build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
