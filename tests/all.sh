#!/usr/bin/env bash
# Install with the test extra, then lint, format, types, tests (some twice) and benchmarks: what CI runs.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m pip install --quiet --disable-pip-version-check -e '.[test]'
ruff check .
ruff format --check .
mypy
OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --ignore=tests/bench "$@"
if [ $# -eq 0 ]; then
    # what is chosen by the processor, once more as on one with AVX2 alone
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 \
        python -m pytest -n 2 --dist loadfile --ignore=tests/bench -m cpu_choice
    python -m pytest tests/bench
fi
