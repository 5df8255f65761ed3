"""What a configuration may not say of channels: refused when it is read, with the line and the nearest name."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generated import examples
from vllm_ci.config.load import Loaded, load
from vllm_ci.domain.errors import ConfigError


def loaded(folder: Path, channels: str, more: str = "") -> Loaded:
    """A configuration with these channels, each on a line of its own from line 4 on."""
    file = folder / "vllm-ci.yaml"
    file.write_text(f"version: 1\nrelease:\n  channels:\n{channels}{more}", encoding="utf-8")
    return load(file)


def refused(folder: Path, production: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, f"    staging: {{}}\n    production: {{{production}}}\n")
    return caught.value


@pytest.mark.parametrize(
    ("production", "key", "words"),
    [
        ("soak_hours: 24", "soak_hours", "needs a channel to soak in"),
        ("after: staging, soak_hours: .inf", "soak_hours", "finite"),
        ("after: staging, soak_hours: -.inf", "soak_hours", "finite"),
        ("after: staging, soak_hours: .nan", "soak_hours", "finite"),
        ("after: staging, soak_hours: -1", "soak_hours", "greater than or equal to 0"),
        ("after: staging, soak_hours: 1.0e+12", "soak_hours", "less than"),
        ("after: staging, soak_hours: 1e400", "soak_hours", "finite"),
        ("after: stagin", "after", "did you mean staging?"),
        ("after: production", "after", "cannot come after itself"),
        ("compared_with: productio", "compared_with", "did you mean production?"),
        ("tests: {secrity: passed}", "tests.secrity", "did you mean security?"),
        ("tests: {unit: []}", "tests.unit", "at least 1 item"),
        ("tests: {unit: pased}", "tests.unit", "'passed'"),
        ("tests: {unit: [passed, pased]}", "tests.unit.1", "'passed'"),
        ("approvals: [nobody]", "approvals.0", "choose one of release"),
        ("approvals: [releas]", "approvals.0", "did you mean release?"),
        ("signers: [release, relase]", "signers.1", "did you mean release?"),
        ("signers: []", "signers", "at least 1 item"),
        ("refs: []", "refs", "at least 1 item"),
        ('refs: [main, ""]', "refs.1", "cannot match any branch or tag"),
        ('refs: ["tag:v*"]', "refs.0", "write tags as refs/tags/v*"),
        ("scan: {accept: [{id: X, reason: r, until: 2027-02-30}]}", "scan.accept.0.until", "day value"),
        ("scan: {accept: [{id: X, reason: r, until: 20270228}]}", "scan.accept.0.until", "YYYY-MM-DD"),
        ("scan: {accept: [{id: X, reason: r, until: 2027-02-28T10:00:00Z}]}", "scan.accept.0.until", "YYYY-MM-DD"),
        ('scan: {accept: [{id: "CVE-*", reason: r, until: 2027-02-28}]}', "scan.accept.0.id", "pattern"),
        ("scan: {max_age_days: .inf}", "scan.max_age_days", "finite"),
        ("scan: {max_age_days: 0}", "scan.max_age_days", "greater than 0"),
        ("kustomization: ../../x.yaml", "kustomization", "leaves the ledger's branch"),
        ("kustomization: /abs/x.yaml", "kustomization", "absolute"),
        ("kustomization: records/000001.json", "kustomization", "reserved for the ledger"),
        ("kustomization: ./Records/x", "kustomization", "reserved for the ledger"),
        ("kustomization: .git/config", "kustomization", "reserved for git"),
        ("kustomization: a/.Git./config", "kustomization", "reserved for git"),
        ("kustomization: 'a\\b'", "kustomization", "backslash"),
        ('kustomization: "a\\0b"', "kustomization", "control character"),
        ("kustomization: a/b./c", "kustomization", "ends with a dot"),
        ("kustomization: a/", "kustomization", "is a folder"),
        ("kustomization: deploy/staging/kustomization.yaml", "kustomization", "the same file"),
        ("kustomization: deploy/staging/Kustomization", "kustomization", "one file per folder"),
        ("kustomization: Deploy/Staging/kustomization.yaml", "kustomization", "the same file"),
        ("kustomization: deploy/staging", "kustomization", "needs a folder"),
        ("kustomization: deploy/staging/kustomization.yaml/x", "kustomization", "needs a folder"),
    ],
)
def test_it_is_refused_with_its_key_and_line(production: str, key: str, words: str, tmp_path: Path) -> None:
    error = refused(tmp_path, production)
    assert f"release.channels.production.{key} is not valid" in error.message or "release.channels.staging" in error.message
    assert words in str(error)
    assert error.message.startswith(f"{tmp_path}/vllm-ci.yaml:"), error.message
    assert error.message.partition(":")[2].partition(":")[0] in ("4", "5")


def test_channels_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r":4: release.channels.a.after is not valid") as caught:
        loaded(tmp_path, "    a: {after: c}\n    b: {after: a}\n    c: {after: b}\n")
    assert "a after c after b after a" in caught.value.why


def test_a_channel_behind_a_circle_is_not_blamed_for_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"release.channels.b.after is not valid"):
        loaded(tmp_path, "    a: {after: b}\n    b: {after: c}\n    c: {after: b}\n")


def test_what_is_right_is_taken_as_it_is_meant(tmp_path: Path) -> None:
    channels = (
        "    staging: {refs: [main, 'release/**', 'refs/tags/v*'], kustomization: ./deploy//here/Kustomization}\n"
        "    production: {after: staging, soak_hours: 24, approvals: [anna], tests: {unit: [passed, inconclusive]},\n"
        "      scan: {accept: [{id: CVE-1, reason: r, until: 2027-02-28}]}}\n"
    )
    found = loaded(tmp_path, channels, "  signers: {anna: anna.pub}\n").config.release.channels
    assert found["staging"].kustomization == "deploy/here/Kustomization"
    assert found["production"].scan
    assert found["production"].scan.accept[0].until.isoformat() == "2027-02-28"
    assert found["production"].domain("production", image="vllm", stages=()).policy.soak_hours == 24


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(
        ["staging", "production", "main", "../x", "records/1", "2027-02-30", "passed", "release", "", "a\nb", "${X}"]
    ),
    st.text(max_size=8),
)
KEYS = [
    "tests",
    "signers",
    "approvals",
    "refs",
    "pull_requests",
    "sbom",
    "scan",
    "after",
    "soak_hours",
    "compared_with",
    "kustomization",
]
INNER = ["unit", "accept", "id", "until", "reason", "fail_on", "max_age_days", "x"]
NESTED = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=3), max_leaves=6
)


@pytest.mark.slow
@settings(max_examples=examples(1500), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["staging", "production", "a."]), st.dictionaries(st.sampled_from(KEYS), NESTED), max_size=3
    )
)
def test_whatever_is_written_is_taken_or_refused_with_a_line(tmp_path: Path, channels: dict[str, object]) -> None:
    import yaml

    file = tmp_path / "vllm-ci.yaml"
    file.write_text(yaml.safe_dump({"release": {"channels": channels}}, allow_unicode=True), encoding="utf-8")
    refusal = ""
    try:
        config = load(file).config
    except ConfigError as error:
        refusal = error.message
    if refusal:
        assert str(file) in refusal
        return
    for name, channel in config.release.channels.items():
        channel.domain(name, image="vllm", stages=config.stages.enabled())


PIECES = ["a: ", "- ", "!!timestamp ", "!!int ", "!!float ", "!!binary ", "!!set ", "!!omap ", "{", "}", "[", "]", "&a ", "*a"]
PIECES += [
    "<<: ",
    "\n",
    "  ",
    "? ",
    ": ",
    "|\n",
    "2027-02-30",
    "0x",
    "1:99",
    ".inf",
    "_",
    "'",
    '"',
    "\t",
    "#c",
    "~",
    "\x00",
    "é",
]


@pytest.mark.slow
@settings(max_examples=examples(1500), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_no_text_is_a_fault(tmp_path: Path, text: str) -> None:
    file = tmp_path / "vllm-ci.yaml"
    file.write_text(text, encoding="utf-8")
    with contextlib.suppress(ConfigError):
        load(file)
