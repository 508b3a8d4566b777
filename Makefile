# `make demo` and `make test` need only Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test conformance lint proto requirements bench-behaviour bench-decisions bench-experiments bench-flags bench-history bench-ingest bench-prediction bench-xds contest contest-full clean

setup: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
# xds-protos installs older copies of the same modules over it; the demo's shop needs the real ones.
	grep -A2 '^opentelemetry-proto==' requirements.txt > $(VENV)/opentelemetry-proto.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --force-reinstall \
		-r $(VENV)/opentelemetry-proto.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(STAMP)
	$(BIN)/serinus demo $(DEMO)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Much of it is waiting for real processes: four at a time are not too many for two cores.
test: $(STAMP) lint
	$(BIN)/python -m pytest -n 4 --dist loadgroup $(PYTEST)

# The xDS test harness and more, against a running `serinus` and with real Envoys, with a table in the end:
# docs/conformance.md. Nearly all of it is waiting for silence.
conformance: $(STAMP)
	$(BIN)/python -m pytest -n 4 --dist loadgroup -m shows tests $(PYTEST)

# Pushes and reconnect storms, beside a bare gRPC server and go-control-plane (where Go is): benchmarks/README.md.
# BENCH=--quick takes 2 minutes instead of 10.
bench-xds: $(STAMP)
	$(BIN)/python -m benchmarks.xds $(BENCH)

# What an access log entry costs from bytes to windows, and pushes under three times the load: benchmarks/README.md.
bench-ingest: $(STAMP)
	$(BIN)/python -m benchmarks.ingest $(BENCH)

# What an evaluation of a flag over OFREP costs, beside a bare handler: benchmarks/README.md.
bench-flags: $(STAMP)
	$(BIN)/python -m benchmarks.flags $(BENCH)

# The profiler on real click paths and series, where they lie (SERINUS_DATA): benchmarks/README.md.
bench-behaviour: $(STAMP)
	$(BIN)/python -m benchmarks.behaviour $(BENCH)

# What the decisions promise, each goal measured in the simulator: benchmarks/README.md. BENCH=--quick takes a tenth of
# the runs.
bench-decisions: $(STAMP)
	$(BIN)/python -m benchmarks.decisions $(BENCH)

# What the analysis of A/B tests promises, on real experiments where they lie (SERINUS_DATA) and in simulation:
# benchmarks/README.md. BENCH=--quick takes a tenth of the simulated runs.
bench-experiments: $(STAMP)
	$(BIN)/python -m benchmarks.experiments $(BENCH)

# What it costs to take down what a rollout is given: docs/history.md. Half a minute.
bench-history: $(STAMP)
	$(BIN)/python -m benchmarks.history $(BENCH)

# What the predictions and backtests promise, each goal measured, on real data where they lie (SERINUS_DATA):
# benchmarks/README.md. BENCH=--quick takes a tenth of the runs.
bench-prediction: $(STAMP)
	$(BIN)/python -m benchmarks.prediction $(BENCH)

# Serinus against its peers in the simulator: benchmarks/contest/README.md. CONTEST=--quick takes a few minutes.
contest: $(STAMP)
	$(BIN)/python -m benchmarks.contest $(CONTEST)

# Hours; interrupted, it goes on where it was.
contest-full: $(STAMP)
	$(BIN)/python -m benchmarks.contest --full --kept build/contest/kept $(CONTEST)

# The generated code is committed, so that installing needs no compiler; a test fails when it is stale.
proto: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -Ixds_server/pb=proto/serinus/control/v1 --python_out=. --pyi_out=. \
		--grpc_python_out=. xds_server/pb/control.proto
	$(BIN)/python -m grpc_tools.protoc -Ixds_server/pb=proto/serinus/registry/v1 --python_out=. --pyi_out=. \
		--grpc_python_out=. xds_server/pb/registry.proto
	$(BIN)/python -m grpc_tools.protoc -Ixds_server/pb=proto/serinus/training/v1 --python_out=. --pyi_out=. \
		--grpc_python_out=. xds_server/pb/training.proto
	$(BIN)/python -m grpc_tools.protoc -Ixds_server/pb=proto/serinus/ingest/v1 --python_out=. --pyi_out=. \
		xds_server/pb/als.proto xds_server/pb/lrs.proto xds_server/pb/otlp.proto
	$(BIN)/python -m grpc_tools.protoc -Ixds_server/pb=proto/serinus/window/v1 --python_out=. --pyi_out=. \
		xds_server/pb/window.proto
	$(BIN)/python -m grpc_tools.protoc -Ixds_server/pb=proto/serinus/learnt/v1 --python_out=. --pyi_out=. \
		xds_server/pb/authz.proto
	$(BIN)/python -m grpc_tools.protoc -Ixds_server/pb=proto/serinus/envoy/v1 --python_out=. --pyi_out=. \
		xds_server/pb/newer.proto

# Versions and hashes only, never an index address.
requirements:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet pip-tools
	.venv-lock/bin/pip-compile --quiet --extra dev --generate-hashes --allow-unsafe --strip-extras \
		--no-emit-index-url --no-emit-trusted-host --no-emit-options --no-header --all-build-deps \
		--output-file requirements.txt pyproject.toml
	rm -rf .venv-lock

clean:
	rm -rf $(VENV)
