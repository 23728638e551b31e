# Each target does all its own set-up, and says what it is doing. What it cannot do without root it names at
# once, with the line to type.

.DEFAULT_GOAL := help

# What the tests are built with: features of some dependencies differ without them, and the program
# would be compiled once more.
TESTED := --bins --tests

# CMake and NASM, where the machine has none.
export PATH := $(CURDIR)/.cache/build-tools/bin:$(PATH)

# The same properties on the same inputs each time: `cargo test` alone and test-long.sh try others.
export PROPTEST_RNG_SEED ?= 1

.PHONY: help docs protocol demo compiled test test-rest test-tools test-documents test-doc test-python test-wheel test-image test-calibration-python test-typescript test-long test-rust test-prometheus test-proxies test-object-stores test-console test-slurm test-network test-store test-qdrant test-go lint tools runtime bench build fuzz wheel sbom clean compare-pillow

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

# With PROFILE=dev by what the tests have built.
demo: PROFILE ?= demo
demo: runtime ## The main job: enrol, calibrate, serve, decide, on real photographs
	@echo "== build (hardly optimised: minutes sooner than the release build, and the same answers)"
	@cargo build --locked --profile $(PROFILE) $(if $(filter dev,$(PROFILE)),$(TESTED),--bins)
	@echo "== demo"
	@target/$(PROFILE:dev=debug)/matchpoint demo

# What needs the program comes after what builds it, two at once: most of it waits, for a server or a download. The
# wheel comes alone, since its build takes the program away for a moment.
test: test-rust ## Every check: format, lints, tests, docs, protocol, deployment files, Python client, wheel
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-rest
	@$(MAKE) --no-print-directory test-wheel
	@echo "== all checks passed"

REST := test-python lint test-tools test-documents test-doc
ifneq ($(shell command -v prometheus),)
REST := test-prometheus $(REST)
endif
ifneq ($(shell command -v nginx),)
REST := test-proxies $(REST)
endif
SLURM := $(shell [ "$$(id -u)" = 0 ] && for tool in slurmctld slurmd munged sbatch; do command -v $$tool; done | wc -l)
ifeq ($(SLURM),4)
REST := test-slurm $(REST)
endif

# Why no cluster comes up on a machine says nothing about the program.
test-rest: OR_SKIP := --or-skip
test-rest: $(REST)
	@command -v prometheus >/dev/null || echo "== skipped: a real Prometheus watches the drift demo (prometheus is not installed)"
	@command -v nginx >/dev/null || echo "== skipped: nginx and Envoy before the server (nginx is not installed)"
	@[ "$(SLURM)" = 4 ] || echo "== skipped: a build on a Slurm cluster (it needs root, slurm-wlm and munge)"

test-tools:
	@echo "== a machine without tools"
	@scripts/test-build-tools.sh

test-documents:
	@echo "== documents"
	@python3 scripts/check_docs.py --program target/debug/matchpoint

test-doc:
	@echo "== documentation of the code"
	@RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet

test-python: runtime
	@echo "== Python client"
	@scripts/test-python-client.sh --program target/debug/matchpoint

test-wheel: tools
	@echo "== wheel"
	@scripts/build-wheel.sh --tested --out target/tested-wheel

test-image: runtime ## The container image, around the program that the tests have built (needs `docker.io`, `docker-compose`, `debootstrap`, root)
	@echo "== image"
	@cargo build --locked --quiet $(TESTED)
	@scripts/test-image.sh --program target/debug/matchpoint

fuzz: runtime ## Let coverage guide changes of inputs: TARGET=pictures SECONDS=60 (a C++ compiler; with clang C is guided too)
	@scripts/fuzz.sh $(or $(TARGET),pictures) $(or $(SECONDS),60)

test-long: runtime ## The tests that go on at random, for MINUTES=48: crashes, damage, fuzzing, hostile clients, a corpus
	@echo "== build"
	@cargo build --locked --quiet $(TESTED)
	@scripts/test-long.sh $(MINUTES)

test-prometheus: runtime ## A real Prometheus watches the drift demo: alerts and dashboard (needs `prometheus`)
	@echo "== Prometheus"
	@cargo build --locked --quiet $(TESTED)
	@python3 scripts/test_prometheus.py --program target/debug/matchpoint

test-proxies: runtime ## nginx and Envoy before a real server (needs `nginx`)
	@echo "== nginx and Envoy"
	@cargo build --locked --quiet $(TESTED)
	@"$$(scripts/venv.sh proxies scripts/proxies-requirements.txt)"/bin/python scripts/test_proxies.py \
		--program target/debug/matchpoint

test-network: runtime ## Three replicas on hosts of their own, one of which is cut off (needs `iproute2`, root)
	@echo "== replicas on a network"
	@cargo build --locked --quiet $(TESTED)
	@"$$(scripts/venv.sh network scripts/network-requirements.txt)"/bin/python scripts/test_network.py \
		--program target/debug/matchpoint

test-qdrant: runtime ## The index in Qdrant against Qdrant's own engine and messages
	@echo "== Qdrant's engine"
	@cargo build --locked --quiet $(TESTED)
	@"$$(scripts/venv.sh qdrant scripts/qdrant-requirements.txt)"/bin/python scripts/test_qdrant.py

test-store: runtime ## Servers that keep one deployment in PostgreSQL, whose primary is killed
	@echo "== one store, several servers"
	@cargo build --locked --quiet $(TESTED)
	@"$$(scripts/venv.sh store scripts/store-requirements.txt)"/bin/python scripts/test_store.py \
		--program target/debug/matchpoint

test-slurm: runtime ## A build on a real Slurm cluster, while tasks and a node are killed (needs `slurm-wlm`, `munge`, root)
	@echo "== Slurm"
	@cargo build --locked --quiet $(TESTED)
	@python3 scripts/test_slurm.py --program target/debug/matchpoint $(OR_SKIP)

test-object-stores: ## Snapshots in an object store that speaks as S3 does; builds the program with the feature
	@echo "== object stores"
	@cargo build --locked --quiet --features object-stores
	@"$$(scripts/venv.sh stores scripts/stores-requirements.txt)/bin/python" scripts/test_object_stores.py \
		--program target/debug/matchpoint

test-calibration-python: runtime ## The calibration as a Python module, against the program, and the notebooks
	@echo "== calibration in Python"
	@cargo build --locked --quiet $(TESTED)
	@scripts/test-calibration-python.sh --program target/debug/matchpoint

test-typescript: runtime ## The client for TypeScript, generated, compiled and run against a server (needs `node`, `npm`)
	@echo "== TypeScript client"
	@cargo build --locked --quiet $(TESTED)
	@python3 scripts/test_typescript.py --program target/debug/matchpoint

test-go: runtime ## The first program in Go, generated, compiled and run against a server (needs Debian's Go and gRPC)
	@echo "== Go client"
	@cargo build --locked --quiet $(TESTED)
	@python3 scripts/test_go.py --program target/debug/matchpoint

test-console: runtime ## The console in a real Chromium: each page, keyboard, axe-core, a phone (needs `chromium`, `npm`)
	@echo "== console"
	@cargo build --locked --quiet $(TESTED)
	@"$$(scripts/venv.sh console scripts/console-requirements.txt)/bin/python" scripts/test_console.py \
		--program target/debug/matchpoint

test-rust: compiled
	@echo "== tests"
	@cargo test --locked --quiet

# Lints come before the tests, and what the tests need is compiled.
compiled: runtime
	@echo "== format"
	@cargo fmt --check
	@echo "== code of the protocol"
	@scripts/protocol-seal.sh --check
	@echo "== lints (clippy, warnings denied)"
	@cargo clippy --locked --all-targets --quiet -- -D warnings
	@echo "== build of the program and its tests"
	@cargo test --locked --quiet --no-run

protocol: ## Write what is generated from proto/ after a change of it: Rust, descriptors, OpenAPI
	@cargo clippy --locked --all-targets --quiet -p matchpoint-protocol -- -D warnings
	@MATCHPOINT_TESTS_WRITE_GENERATED=1 cargo test --locked --quiet -p matchpoint-protocol
	@scripts/protocol-seal.sh > proto/generated.sha256
	@"$$(scripts/venv.sh lint scripts/lint-requirements.txt)/bin/python" scripts/make_openapi.py

lint: ## Lint protocol, scripts, Python and deployment files
	@echo "== protocol, scripts, Python, deployment files"
	@scripts/lint-deploy.sh
	@python3 examples/photos/make_manifests.py --check

compare-pillow: ## Compare the pixels of thousands of odd files with Pillow's (SEED=1, COUNT=5000)
	@echo "== Pillow"
	@python3 -m venv .cache/venv-pillow && .cache/venv-pillow/bin/pip install --quiet pillow==13.0.0
	@rm -rf .cache/odd && .cache/venv-pillow/bin/python scripts/make_odd_pictures.py .cache/odd \
		--seed $(or $(SEED),1) --count $(or $(COUNT),5000)
	@cargo bench --locked --quiet --profile dev --bench pixels -- --digests .cache/odd > .cache/odd.tsv
	@.cache/venv-pillow/bin/python scripts/make_odd_pictures.py .cache/odd --compare .cache/odd.tsv

docs: ## The documentation as a site, target/docs/index.html
	@echo "== documentation site"
	@cargo build --locked --quiet $(TESTED)
	@"$$(scripts/venv.sh docs scripts/docs-requirements.txt)/bin/mkdocs" build --strict

sbom: ## Write a CycloneDX bill of materials, target/matchpoint.cdx.json
	@mkdir -p target && python3 scripts/third_party.py sbom target/matchpoint.cdx.json

build: runtime ## Build the program for use, target/release/matchpoint, with its symbols in matchpoint.debug beside it
	@echo "== build (release)"
	@cargo build --locked --release
	@scripts/strip-program.sh target/release/matchpoint

wheel: tools ## A Python wheel of the program, the model and the sample, tried in a new environment
	@echo "== wheel"
	@scripts/build-wheel.sh $(if $(PROFILE),--profile $(PROFILE))

tools:
	@scripts/build-tools.sh

runtime: tools ## Fetch the pinned ONNX Runtime (once)
	@echo "== ONNX Runtime"
	@scripts/fetch-onnxruntime.sh

bench: runtime ## Measure the service against the same steps called in-process
	@echo "== benchmark"
	@cargo bench --locked --bench service

clean: ## Remove what was built and fetched
	@cargo clean
	@rm -rf .cache demo-deployment
