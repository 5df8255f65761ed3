from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.evidence import keys
from vllm_ci.evidence.keys import PublicKey


@pytest.mark.parametrize("kind", ["ecdsa", "ed25519"])
def test_what_a_key_signs_its_other_half_verifies(kind: str, tmp_path: Path) -> None:
    public = keys.generate(tmp_path, kind=kind)
    private = keys.load(str(tmp_path / "release.key"), environment={})
    signature = private.sign(b"content")
    assert public.verifies(signature, b"content")
    assert not public.verifies(signature, b"other content")
    assert PublicKey.read("ci", tmp_path / "release.pub").hint == private.public.hint


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    keys.generate(tmp_path, passphrase="open sesame")
    file = str(tmp_path / "release.key")
    assert b"ENCRYPTED" in Path(file).read_bytes()
    with pytest.raises(ConfigError, match="no passphrase"):
        keys.load(file, environment={})
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        keys.load(file, environment={"VLLM_CI_KEY_PASSPHRASE": "wrong"})
    assert "wrong" not in str(caught.value).replace("is wrong", "")
    keys.load(file, environment={"VLLM_CI_KEY_PASSPHRASE": "open sesame"})
    (tmp_path / "phrase").write_text("open sesame\n")
    keys.load(file, environment={"VLLM_CI_KEY_PASSPHRASE_FILE": str(tmp_path / "phrase")})


def test_a_key_may_come_in_a_variable(tmp_path: Path) -> None:
    public = keys.generate(tmp_path)
    environment = {"SIGNING_KEY": (tmp_path / "release.key").read_text()}
    assert keys.load("env:SIGNING_KEY", environment=environment).public.hint == public.hint
    with pytest.raises(ConfigError, match="NO_KEY"):
        keys.load("env:NO_KEY", environment=environment)


def test_a_private_key_is_its_owner_s_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    keys.generate(tmp_path / "keys")
    assert stat.S_IMODE((tmp_path / "keys/release.key").stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="already exists"):
        keys.generate(tmp_path / "keys")


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_said_with_its_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ConfigError, match="bad"):
        keys.load(str(tmp_path / "bad"), environment={})
    with pytest.raises(ConfigError, match="ci"):
        PublicKey.read("ci", tmp_path / "bad")


def test_a_key_service_needs_its_public_key_and_its_package(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="public key"):
        keys.load("awskms:alias/release", environment={})
    keys.generate(tmp_path)
    with pytest.raises(ConfigError, match="awskms"):
        keys.load("awskms:alias/release", public_key=tmp_path / "release.pub", environment={})


@pytest.mark.needs_tool
def test_openssl_reads_what_we_write(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH (apt-get install openssl)")
    keys.generate(tmp_path, passphrase="p")
    command = ["openssl", "pkey", "-in", str(tmp_path / "release.key"), "-passin", "pass:p", "-pubout"]
    done = subprocess.run(command, check=True, capture_output=True)
    assert done.stdout == (tmp_path / "release.pub").read_bytes()
