#!/usr/bin/env bash
# Everything that one GPU shows of distmeta, in under 8 minutes, in process, with the Python and torch that are there:
#   bash benchmarks/gpu.sh [--device cpu] [--quick] [--out FOLDER] [key=value ...]
# PYTHON names the interpreter. Nothing is installed, and Ray is not used. See benchmarks/gpu.py.
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
