#!/usr/bin/env bash
# Install with the test extra, then lint, format, types, tests and benchmarks: what CI runs.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m pip install --quiet --disable-pip-version-check -e '.[test]'
ruff check .
ruff format --check .
mypy
OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --ignore=tests/bench "$@"
if [ $# -eq 0 ]; then python -m pytest tests/bench; fi
