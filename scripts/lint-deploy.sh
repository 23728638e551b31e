#!/usr/bin/env bash
# Lints what the Rust toolchain does not see: the protocol, scripts, Python, the Dockerfile, and
# everything in deploy/. Ends with exit code 1 where there is a finding.
#
# The linters are installed once, into .cache/venv-lint. promtool is used where it is installed
# (Debian: apt-get install prometheus); without it, the Prometheus rules are not checked.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# --- The linters ---------------------------------------------------------------------------------

venv=$(scripts/venv.sh lint scripts/lint-requirements.txt)
PATH=$venv/bin:$PATH
export PYTHONDONTWRITEBYTECODE=1

# --- The checks ----------------------------------------------------------------------------------

clean=0
with_findings=()
skipped=0
check() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        printf 'ok       %s\n' "$name"
        clean=$((clean + 1))
    else
        printf 'FINDING  %s: %s\n%s\n' "$name" "$*" "$output"
        with_findings+=("$name")
    fi
}
docs_site() {
    local site
    site=$(mktemp -d)
    "$(scripts/venv.sh docs scripts/docs-requirements.txt)/bin/mkdocs" build --strict --site-dir "$site" || return 1
    rm -rf "$site"
}
skip() {
    printf 'skipped  %s: %s\n' "$1" "$2"
    skipped=$((skipped + 1))
}

shopt -s nullglob
python=(scripts/*.py scripts/*/*.py models/*/*.py examples/*/*.py)
manifests=()
for file in deploy/kubernetes/*.yaml deploy/kubernetes/*/*.yaml; do
    # It is for kubectl alone, so no schema of a cluster knows it.
    [ "$(basename "$file")" = kustomization.yaml ] || manifests+=("$file")
done

check "protocol (buf)" buf lint
# Adding is free; what is there keeps its name, number and type. After a release, the baseline is made of it:
# buf build --exclude-source-info -o proto/baseline.binpb
check "protocol, against its baseline (buf)" buf breaking --against proto/baseline.binpb
check "JSON over HTTP (descriptors, OpenAPI)" "$venv/bin/python" scripts/make_openapi.py --check
check "scripts (shellcheck)" shellcheck scripts/*.sh deploy/slurm/*.sbatch .ci/run
check "Python (ruff check)" ruff check --no-cache --quiet "${python[@]}" clients/python clients/calibration-python
check "spelling (typos)" typos --format brief
# Pages that are in no menu, and links that lead nowhere. The page of commands is made by the program.
if compgen -G 'target/*/matchpoint' >/dev/null; then
    check "documentation site (mkdocs, strict)" docs_site
else
    skip "documentation site (mkdocs, strict)" "there is no program yet: cargo build"
fi
check "Dockerfile (hadolint)" hadolint Dockerfile
check "YAML (yamllint)" yamllint --strict -c deploy/.yamllint.yaml deploy
check "Compose (schema)" check-jsonschema --builtin-schema vendor.compose-spec deploy/compose*.yaml
check "Kubernetes (schema)" kubernetes-validate --strict --quiet "${manifests[@]}"
check "licences and sources of crates (cargo-deny)" cargo-deny --locked check --hide-inclusion-graph licenses bans sources
check "the same of the module for Python" cargo-deny --locked --manifest-path clients/calibration-python/Cargo.toml check --hide-inclusion-graph licenses bans sources
check "the same of the fuzzer" cargo-deny --locked --manifest-path fuzz/Cargo.toml check --hide-inclusion-graph licenses bans sources
check "third-party licences" python3 scripts/third_party.py licences --check
check "bill of materials, against what cargo links" python3 scripts/third_party.py sbom --check
check "dashboards (Grafana's types)" python3 scripts/make_dashboards.py --check
check "names, defaults and versions" python3 scripts/check_deploy.py
if command -v promtool >/dev/null; then
    check "Prometheus configuration and rules (promtool)" promtool check config deploy/prometheus/prometheus.yml
    check "Prometheus rules (unit tests)" promtool test rules deploy/prometheus/tests/*.yml
    check "dashboards' queries (promtool)" python3 scripts/check_deploy.py --promtool
else
    for name in "Prometheus configuration and rules" "Prometheus rules (unit tests)" "dashboards' queries"; do
        skip "$name" "promtool is not installed"
    done
fi

if [ ${#with_findings[@]} -gt 0 ]; then
    printf 'lint: findings in %d of %d checks\n' ${#with_findings[@]} $((${#with_findings[@]} + clean))
    exit 1
fi
printf 'lint: %d checks without a finding, %d skipped\n' "$clean" "$skipped"
