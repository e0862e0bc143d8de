#!/bin/sh
# Install the library into a virtual environment, with the versions of constraints.txt.
#   PYTHON=python3.12 sh scripts/install.sh .venv '.[test]'
# uv downloads and unpacks in parallel; where it cannot be had or fails, pip does the same slowly.
set -eu

environment=$1
what=$2
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$python is missing or older than Python 3.11; name another, as in: make PYTHON=python3.12" >&2
    exit 1
fi
if ! [ -x "$environment/bin/python" ] && ! "$python" -m venv "$environment"; then
    rm -rf "$environment"
    echo "no virtual environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
fi
inside=$environment/bin/python
with_uv() {
    "$environment/bin/uv" pip install --python "$inside" -c constraints.txt -e "$what"
}
with_pip() {
    echo "uv is not available or failed; installing with pip, which takes longer" >&2
    "$inside" -m pip install -c constraints.txt -e "$what"
}
[ -x "$environment/bin/uv" ] || "$inside" -m pip install -q -c constraints.txt uv || true
with_uv || with_pip
