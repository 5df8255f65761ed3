# Sourced by ci/run, ci/test and ci/lock (from the root of the checkout): finds or fetches what they need, into the checkout only.
# Afterwards: $UV is a uv, and `environment NAME LOCK` makes an environment from a lock, leads .tools/NAME to it, and sets $PY to its
# interpreter.

say() { printf 'vllm-ci: %s\n' "$*" >&2; }

stop() {
    say "$1"
    [ -z "${2:-}" ] || printf '  do:  %s\n' "$2" >&2
    exit 2
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    # A pyenv that cannot serve .python-version, or serves an old Python, must not stand in the way.
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

environments() { "$HOST_PYTHON" -I -S ci/environments.py "$@"; }

find_uv() {
    if [ ! -x .tools/uv/bin/uv ] && command -v uv >/dev/null 2>&1; then
        UV=$(command -v uv)
        return
    fi
    UV=$PWD/.tools/uv/bin/uv
    [ ! -x "$UV" ] || return 0
    "$HOST_PYTHON" -m pip --version >/dev/null 2>&1 ||
        stop "neither uv nor pip is here" "install one of them (apt-get install python3-pip, or see uv's own manual)"
    mkdir -p .tools
    exec 8>.tools/uv.lock
    environments hold exclusive 8
    if [ ! -x "$UV" ]; then
        say "fetching uv into .tools/uv"
        rm -rf .tools/uv.part .tools/uv
        PIP_ROOT_USER_ACTION=ignore "$HOST_PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
            --target .tools/uv.part -r ci/uv.lock
        mv .tools/uv.part .tools/uv
    fi
    exec 8>&-
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

# One environment for each interpreter, lock and place of the checkout: two calls whose `python3` differs do not disturb each other.
# It is complete when its stamp is there. Who uses it holds its lock (descriptor 9, kept over exec), so that no clean-up removes it.
environment() {
    HOST_VERSION=$("$HOST_PYTHON" -I -S -c 'import sys; print(*sys.version_info[:2], sys.implementation.cache_tag)')
    kept=$1-$(environments key "$2" "$HOST_PYTHON" "$HOST_VERSION" "$PWD")
    target=.tools/envs/$kept
    PY=$PWD/$target/bin/python
    mkdir -p .tools/envs
    exec 9>>"$target.lock"
    environments hold shared 9
    if [ ! -e "$target/stamp" ]; then
        exec 8>>"$target.making.lock"
        environments hold exclusive 8
        [ -e "$target/stamp" ] || make_environment "$2"
        exec 8>&-
    fi
    environments use "$1" "$kept"
}

make_environment() {
    say "making $target from $1"
    use_pip_configuration
    # Nobody else is making it: what lies here was left by a call that was killed.
    rm -rf "$target" "$target.part"
    part=$target.part
    "$UV" venv --quiet --no-project --relocatable --python "$HOST_PYTHON" "$part"
    "$UV" pip sync --quiet --python "$part/bin/python" --require-hashes --only-binary :all: "$1"
    # The checkout itself is on the path, not installed: nothing is built, and an edit needs no second step.
    for site in "$part"/lib/python3.*/site-packages; do
        echo "$PWD/pipeline" >"$site/vllm_ci.pth"
    done
    printf '#!/bin/sh\nexec "%s" -P -m vllm_ci "$@"\n' "$PY" >"$part/bin/vllm-ci"
    chmod +x "$part/bin/vllm-ci"
    echo "$HOST_PYTHON $HOST_VERSION" >"$part/stamp"
    mv "$part" "$target"
}

find_python
find_uv
