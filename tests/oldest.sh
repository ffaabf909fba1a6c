#!/usr/bin/env bash
# Runs tests with the oldest versions that setup.cfg allows, in a fresh environment of Python 3.10.
#
#     tests/oldest.sh                          all tests
#     tests/oldest.sh tests/layers rfd_tf      some
#
# PYTHON names another interpreter. (The newest versions are what `pip install '.[test]'` takes.)
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3.10}" -m venv "$work/venv" && . "$work/venv/bin/activate"
pip install -q '.[test]' --constraint constraints/oldest.txt
python -m pytest -p no:cacheprovider "$@"
