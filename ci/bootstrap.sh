# Sourced by ci/run, ci/test and ci/lock (from the root of the checkout): finds or fetches what they need, into the checkout only.
# Afterwards: $UV is a uv, and `environment NAME LOCK` makes .tools/NAME from a lock and sets $PY to its interpreter.

say() { printf 'vllm-ci: %s\n' "$*" >&2; }

stop() {
    say "$1"
    [ -z "${2:-}" ] || printf '  do:  %s\n' "$2" >&2
    exit 2
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    # .python-version is for Dagger's runtime; a pyenv that does not have that version must not stand in the way.
    if command -v pyenv >/dev/null 2>&1 && ! new_enough "${PYTHON:-python3}"; then
        PYENV_VERSION=$(pyenv global | head -n 1)
        export PYENV_VERSION
    fi
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if new_enough "$candidate"; then
            HOST_PYTHON=$("$candidate" -c 'import sys; print(sys.executable)')
            return
        fi
    done
    stop "no Python 3.11 or newer found" "install one (apt-get install python3), or name one: PYTHON=/path/to/python3 $0"
}

find_uv() {
    if [ -x .tools/uv/bin/uv ]; then
        UV=$PWD/.tools/uv/bin/uv
    elif command -v uv >/dev/null 2>&1; then
        UV=$(command -v uv)
    else
        "$HOST_PYTHON" -m pip --version >/dev/null 2>&1 ||
            stop "neither uv nor pip is here" "install one of them (apt-get install python3-pip, or see uv's own manual)"
        say "fetching uv into .tools/uv"
        rm -rf .tools/uv.part
        PIP_ROOT_USER_ACTION=ignore "$HOST_PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
            --target .tools/uv.part -r ci/uv.lock
        rm -rf .tools/uv
        mv .tools/uv.part .tools/uv
        UV=$PWD/.tools/uv/bin/uv
    fi
}

# uv does not read pip's configuration: hand over the index that the user gave pip, unless uv has one of its own.
pip_setting() { "$HOST_PYTHON" -m pip config get "$1" 2>/dev/null || true; }
use_pip_configuration() {
    if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_CONFIG_FILE:-}" ]; then
        index=${PIP_INDEX_URL:-$(pip_setting global.index-url)}
        [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    fi
    if [ -z "${SSL_CERT_FILE:-}" ]; then
        certificates=${PIP_CERT:-$(pip_setting global.cert)}
        [ -z "$certificates" ] || export SSL_CERT_FILE="$certificates"
    fi
}

environment() {
    target=.tools/$1
    stamp="$(cksum <"$2") $HOST_PYTHON $PWD"
    PY=$PWD/$target/bin/python
    [ "$(cat "$target/stamp" 2>/dev/null)" != "$stamp" ] || return 0
    say "making $target from $2"
    use_pip_configuration
    # Made beside its place and moved there: whoever still runs the old one is not cut off half-way.
    part=$target.part.$$
    "$UV" venv --quiet --no-project --relocatable --python "$HOST_PYTHON" "$part"
    "$UV" pip sync --quiet --python "$part/bin/python" --require-hashes --only-binary :all: "$2"
    # The checkout itself is on the path, not installed: nothing is built, and an edit needs no second step.
    for site in "$part"/lib/python3.*/site-packages; do
        echo "$PWD/pipeline" >"$site/vllm_ci.pth"
    done
    printf '#!/bin/sh\nexec "%s" -m vllm_ci "$@"\n' "$PY" >"$part/bin/vllm-ci"
    chmod +x "$part/bin/vllm-ci"
    echo "$stamp" >"$part/stamp"
    [ ! -e "$target" ] || mv "$target" "$part.old"
    mv "$part" "$target"
    rm -rf "$part.old"
}

find_python
find_uv
