# Sourced by ci/test: runs many tests at the same time, and those that fail once more, one after another.
# More tests run than there are cores, so that one can wait longer for the processor than it allows for. A test that fails alone
# fails. One that passes alone is shown at the end: either the test does not wait long enough, or what it tests has a fault.

FAILED=$(mktemp)
PASSED_ALONE=$(mktemp)
trap 'show_passed_alone; rm -f "$FAILED" "$PASSED_ALONE"' EXIT
MOST_FAILED=5 # more are not run again

# beside ARGUMENTS...: pytest with these arguments.
beside() {
    : >"$FAILED"
    status=0
    VLLM_CI_FAILED_TESTS=$FAILED "$PY" -m pytest "$@" || status=$?
    [ "$status" -ne 0 ] || return 0
    if [ "$status" -ne 1 ] || [ ! -s "$FAILED" ] || [ "$(wc -l <"$FAILED")" -gt "$MOST_FAILED" ]; then
        exit "$status"
    fi
    say "once more, one after another: the tests that failed beside others"
    "$PY" -m pytest -n 0 "@$FAILED" || exit $?
    cat "$FAILED" >>"$PASSED_ALONE"
}

# The tests that failed beside others, and passed alone.
show_passed_alone() {
    [ -s "$PASSED_ALONE" ] || return 0
    say "failed beside others and passed alone (see CONTRIBUTING.md):"
    sed 's/^/  /' "$PASSED_ALONE" >&2
}
