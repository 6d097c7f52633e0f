#!/bin/sh
# Finds a Python that is new enough and lets it make .venv. PYTHON=… in the environment names another one.
set -eu
cd "$(dirname "$0")/../.."

new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

if [ -n "${PYTHON:-}" ]; then
    if "$PYTHON" -c "$new_enough" 2>/dev/null; then
        exec "$PYTHON" deploy/local/install.py --exact
    fi
    echo "PYTHON=$PYTHON is no Python 3.11 or newer ($("$PYTHON" --version 2>&1 || true))." >&2
    exit 1
fi

for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c "$new_enough" 2>/dev/null; then
        exec "$candidate" deploy/local/install.py
    fi
done
echo "Python 3.11 or newer is needed ($(python3 --version 2>/dev/null || echo 'there is no python3') here): install one, or name it: 'make run PYTHON=/path/to/python3.12'." >&2
exit 1
