# fastslow: `make` prints this help; every target installs what it needs on first use.
DATASET ?= demo
ROOT    ?= build
ARGS    ?=
PYTHON  ?= python3.11

VENV  := .venv
STAMP := $(VENV)/.installed
RUN   := $(VENV)/bin/fastslow

# make index DATASET=flickr8k SHARDS='/data/flickr8k-test-*.tar' QUERIES=/data/flickr8k_test.tsv ENCODER=... SCORER=...
# RUNNER=flink, or RUNNER=dataflow ROOT=gs://... PROJECT=... REGION=... TEMP=gs://bucket/tmp [IMAGE= MACHINE= GPU= WORKERS=];
# BEAM='--name=value ...': any of Beam's
DATAFLOW := $(filter dataflow%,$(RUNNER))
IMAGE    ?= $(if $(DATAFLOW),$(if $(REGION),$(if $(PROJECT),$(REGION)-docker.pkg.dev/$(PROJECT)/fastslow/worker:0.1.0)))
BEAM_OPTIONS := $(if $(PROJECT),--project=$(PROJECT)) $(if $(REGION),--region=$(REGION)) \
	$(if $(TEMP),--temp_location=$(TEMP)) $(if $(IMAGE),--sdk_container_image=$(IMAGE)) \
	$(if $(MACHINE),--machine_type=$(MACHINE)) $(if $(WORKERS),--max_num_workers=$(WORKERS)) \
	$(if $(GPU),'--dataflow_service_options=worker_accelerator=type:$(GPU);count:1;install-nvidia-driver') $(BEAM)
WHERE := $(if $(RUNNER),--runner $(RUNNER)) $(if $(strip $(BEAM_OPTIONS)),-- $(BEAM_OPTIONS))

OPTIONS := --root $(ROOT) $(if $(SHARDS),--shards '$(SHARDS)') $(if $(QUERIES),--queries $(QUERIES)) \
	$(if $(ENCODER),--encoder $(ENCODER)) $(if $(SCORER),--scorer $(SCORER)) $(ARGS)

# uv leaves compiling to the first import; where that may not be kept, every process compiles torch and Beam again
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help index flink-up flink-down search test test-slow check format claims bench lock wheel clean

help:  ## print this help
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  DATASET=demo ROOT=build SHARDS= QUERIES= ENCODER= SCORER= RUNNER= ARGS='--set rerank.depth=50'"

$(STAMP): requirements.txt setup.py
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or give PYTHON=/path/to/python3.11"; exit 2; }
	@echo "installing into $(VENV), once"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.8' 2>/dev/null || echo "uv is not to be had; plain pip takes some minutes"
	@if [ -x $(VENV)/bin/uv ]; then \
	  $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -r requirements.txt && \
	  $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation -e .; \
	else \
	  $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt && \
	  $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

$(VENV)/.dataflow: $(STAMP) deploy/dataflow/requirements.txt
	@echo "installing Dataflow's client into $(VENV), once"
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -r deploy/dataflow/requirements.txt 2>/dev/null || \
	  $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r deploy/dataflow/requirements.txt
	@touch $@

index: $(STAMP) $(if $(DATAFLOW),$(VENV)/.dataflow)  ## embed, index, rerank, evaluate and publish DATASET; only what changed is done
	@$(RUN) reindex $(DATASET) $(OPTIONS) $(WHERE)

flink-up: $(STAMP)  ## a Flink cluster on this machine: then make index RUNNER=flink
	@PYTHON=$(VENV)/bin/python deploy/flink/cluster.sh up
	@echo "job server: $$(PYTHON=$(VENV)/bin/python deploy/flink/cluster.sh job-server)"

flink-down:  ## stop what flink-up started
	@deploy/flink/cluster.sh down

search: $(STAMP)  ## ask the published index: make search Q='a red circle left of a blue square'
	@$(RUN) search $(DATASET) '$(Q)' --root $(ROOT)

# three processes for two cores: one of them waits for Flink much of its time
test: $(STAMP)  ## lint, types and the default tests
	@$(MAKE) --no-print-directory check > $(VENV)/check.log 2>&1 & check=$$!; \
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu'; tests=$$?; \
	wait $$check; check=$$?; cat $(VENV)/check.log; exit $$((tests || check))

test-slow: $(STAMP)  ## the slow tests
	@$(VENV)/bin/python -m pytest -m 'slow and not gpu' --hypothesis-profile=default

check: $(STAMP)  ## ruff and mypy
	@$(VENV)/bin/ruff format --check --quiet . && $(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy schemas encoders pipelines

format: $(STAMP)  ## format and fix what can be fixed
	@$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

claims: $(STAMP)  ## what the papers claim, measured: docs/claims.md (QUICK=1: under 20 minutes)
	@$(VENV)/bin/fastslow claims $(if $(QUICK),--quick)

bench: $(STAMP)  ## speed and memory as ratios, written to benchmarks/results
	@$(VENV)/bin/python -m benchmarks.bench_embed --images 512 --texts 256 --json benchmarks/results/embed.json
	@$(VENV)/bin/python -m benchmarks.bench_memory --json benchmarks/results/memory.json
	@$(VENV)/bin/python -m benchmarks.bench_parquet --json benchmarks/results/parquet.json
	@$(VENV)/bin/python -m benchmarks.bench_coarse_to_fine --json benchmarks/results/coarse_to_fine.json
	@$(VENV)/bin/python -m benchmarks.bench_training --json benchmarks/results/training.json
	@$(VENV)/bin/python -m benchmarks.bench_index --json benchmarks/results/index_1m.json
	@$(VENV)/bin/python -m benchmarks.bench_night --json benchmarks/results/night.json
	@$(VENV)/bin/python -m benchmarks.bench_night --encoder demo --json benchmarks/results/night_demo.json
	@$(VENV)/bin/python -m benchmarks.bench_requests --json benchmarks/results/requests.json
	@$(MAKE) --no-print-directory flink-up && $(VENV)/bin/python -m benchmarks.bench_engines --json benchmarks/results/engines.json
	@$(MAKE) --no-print-directory flink-down
	@$(VENV)/bin/python -m benchmarks.bench_driver --json benchmarks/results/driver.json
	@$(VENV)/bin/python -m benchmarks.plan_scale --write docs/scale.md
	@$(VENV)/bin/python -m benchmarks.bench_systems --json benchmarks/results/systems.json --markdown docs/systems.md
	@$(VENV)/bin/python -m benchmarks.choosing --write docs/choosing.md

lock: $(STAMP)  ## solve setup.py and requirements.in into requirements.txt
	@$(VENV)/bin/uv pip compile --quiet --upgrade --python $(VENV)/bin/python setup.py requirements.in --no-header \
	  --no-annotate --no-emit-index-url -o requirements.txt
	@sed -i '1i # Every package and its version, solved together on Python 3.11 (make lock). A change here reinstalls.' requirements.txt
	@$(VENV)/bin/uv pip compile --quiet --upgrade --python $(VENV)/bin/python setup.py --extra dataflow --extra gcs \
	  -c requirements.txt --no-header --no-annotate --no-emit-index-url -o deploy/dataflow/requirements.txt
	@sed -i '1i # What the image and whoever submits to Dataflow have, solved within ../../requirements.txt (make lock).' \
	  deploy/dataflow/requirements.txt

wheel: $(STAMP)  ## build the wheel and the source package shipped to workers
	@$(VENV)/bin/python -m build --no-isolation --outdir dist .

clean:  ## remove the environment and what was built (data/ is kept)
	rm -rf $(VENV) build dist *.egg-info
