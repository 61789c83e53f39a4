#!/usr/bin/env bash
# Install with the test extra, then lint, format, types, tests (some twice), coverage and benchmarks: what CI runs.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m pip install --quiet --disable-pip-version-check -e '.[test]'
ruff check .
ruff format --check .
mypy
if [ $# -gt 0 ]; then
    OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --ignore=tests/bench "$@"
    exit
fi
# Coverage costs little from Python 3.12 on (sys.monitoring). Before, it is measured by the tests of core and registry alone.
measured=(tests/unit/core tests/unit/registry tests/properties)
others=()
for path in tests/unit/* tests/test_*.py; do
    case "$path" in tests/unit/core | tests/unit/registry) ;; *) others+=("$path") ;; esac
done
if python -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
    export COVERAGE_CORE=sysmon
    measured+=("${others[@]}")
    others=()
fi
export OMP_NUM_THREADS=1
python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered "${measured[@]}"
if [ ${#others[@]} -gt 0 ]; then python -m pytest -n 2 --dist loadfile "${others[@]}"; fi
# what is chosen by the processor, once more as on one with AVX2 alone
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python -m pytest -n 2 --dist loadfile --ignore=tests/bench -m cpu_choice
unset OMP_NUM_THREADS
python -m pytest tests/bench
