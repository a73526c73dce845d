# `make demo` sets everything up and runs the default study to its report; `make test` sets up and runs all tests.
# Both may be interrupted and repeated. Needs python3.11, git and make; nothing else has to be installed.

SHELL := /bin/bash
PYTHON ?= python3.11
UV := .envs/uv/bin/uv
UV_VERSION := 0.13.9
CORES ?= all
SNAKEMAKE := .envs/driver/bin/snakemake
unexport PYTHONDONTWRITEBYTECODE  # with it every job would compile its imports again
export UV_NO_PROGRESS := 1

CHECKSUMS ?= config/checksums/demo.json

.PHONY: demo reproduce checksums test test-all unit house workflow slurm conda setup envs docs lint map map-check clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: setup  ## run the default study (SmolLM2-135M on this CPU) to results/demo/report.html
	@echo "==> running the default study; a rerun continues where this one stops"
	@# the lock file serves two purposes: one demo at a time, and a killed one leaves nothing that needs unlocking
	@mkdir -p .snakemake && flock --nonblock --conflict-exit-code 9 .snakemake/demo.lock \
	    bash -c '$(SNAKEMAKE) --unlock >/dev/null 2>&1; exec $(SNAKEMAKE) --cores $(CORES) --quiet rules reason' \
	    || { code=$$?; [ $$code -ne 9 ] || echo "another 'make demo' is running in this folder"; exit $$code; }
	@echo "==> where the time went (all jobs of results/demo, as each ran last)"
	@.envs/driver/bin/python tools/times.py results/demo
	@echo "==> the report: $(CURDIR)/results/demo/report.html"

reproduce: setup  ## rebuild the default study in .reproduce/ and compare it with config/checksums/demo.json
	rm -rf .reproduce
	.envs/driver/bin/python tools/reproduce.py rebuild --checksums $(CHECKSUMS) --folder .reproduce --cores $(CORES)

checksums:  ## after `make demo`: record its results as what `make reproduce` compares with
	.envs/driver/bin/python tools/reproduce.py record --checksums $(CHECKSUMS) \
	    --results results/demo --config config/config.yaml

STACK ?= pinned
TRAIN_pinned := train
TRAIN_current := train-current
setup: $(addprefix .envs/,$(addsuffix /.ready,driver $(TRAIN_$(STACK)) grade stats provenance))  ## install the locked environments into .envs/ (STACK=current: those of that stack)

test: setup .envs/train-current/.ready .envs/pytest/.ready lint  ## run all tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=line workflow unit slurm conda

test-all: export SFT_VS_DPO_ALL_TESTS = 1
test-all: .envs/serve/.ready test  ## the same with what takes hours: exhaustive kills, fuzzing, all model families

unit: house unit-driver unit-stats unit-grade unit-train unit-train-current  ## unit tests, each in the environment of what it tests

unit-%:
	@echo "==> unit tests in the environment '$*'"
	.envs/$*/bin/python tests/run.py tests/unit/$*

unit-train-current:
	@echo "==> the unit tests of training in the environment of stack: current"
	.envs/train-current/bin/python tests/run.py tests/unit/train

house:  ## lengths, directions of imports, what rules hold, and that what the documents name exists
	@echo "==> the measures of the house"
	.envs/driver/bin/python tests/run.py tests/house

workflow:  ## tests of the workflow, through the public command
	@echo "==> the workflow, through the public command"
	.envs/driver/bin/python tests/run.py tests/workflow

slurm: setup .envs/pytest/.ready  ## only the tests on a real SLURM of this machine (root; installs Debian packages)
	@echo "==> the workflow on a real SLURM"
	.envs/driver/bin/python tests/run.py tests/slurm

conda: setup .envs/pytest/.ready  ## only the tests through --sdm conda, with a stand-in for conda
	@echo "==> the workflow through --sdm conda, with a stand-in for conda, which installs 7 GB once"
	.envs/driver/bin/python tests/run.py tests/conda

lint:  ## all linters and the type checker; .pre-commit-config.yaml runs the same before a commit
	@echo "==> lint"
	.envs/driver/bin/ruff check .
	.envs/driver/bin/ruff format --check .
	.envs/driver/bin/mypy
	.envs/driver/bin/snakefmt --check Snakefile rules
	$(SNAKEMAKE) --lint
	PATH="$(CURDIR)/.envs/uv/bin:$$PATH" .envs/driver/bin/python tools/pin_envs.py --check
	.envs/driver/bin/python tools/describe.py --check
	.envs/driver/bin/python tools/checklist.py --check

envs: $(UV)  ## after a change of pyproject.toml: lock again and write envs/*.yaml
	$(UV) lock
	PATH="$(CURDIR)/.envs/uv/bin:$$PATH" $(PYTHON) tools/pin_envs.py

docs:  ## write config/README.md's table of keys from config/schema.yaml, and docs/checklist.md
	.envs/driver/bin/python tools/describe.py
	.envs/driver/bin/python tools/checklist.py

map: .envs/train/.ready .envs/train-current/.ready  ## try all versions of TRL (five more environments, 7 minutes): writes docs/trl-versions.md
	$(PYTHON) benchmarks/trl_map/trl_map.py run

map-check: .envs/train/.ready  ## try two versions of TRL again: are they as docs/trl-versions.md says?
	$(PYTHON) benchmarks/trl_map/trl_map.py check 0.8.6 0.9.6

clean:  ## remove the environments (results stay)
	rm -rf .envs .cache/conda-standin

$(UV):
	@echo "==> installing uv $(UV_VERSION) into .envs/uv"
	@$(PYTHON) tools/install_uv.py $(UV_VERSION) .envs/uv

.envs/%/.ready: uv.lock pyproject.toml | $(UV)
	@echo "==> installing the locked '$*' environment into .envs/$*$(if $(filter train,$*), (about 5 GB, mostly torch))"
	@UV_PROJECT_ENVIRONMENT=.envs/$* $(UV) sync --quiet --frozen --python $(PYTHON) \
	    --only-group $* $(if $(filter driver,$*),--only-group lint)
	@touch $@
