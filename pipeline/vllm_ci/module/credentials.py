"""Credentials for registry and ledger, and the author of a record: passed once to an object whose functions need them."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import dagger
from dagger import Doc

from vllm_ci.module.arguments import Password, RegistryService, Settings, Username

Options = Mapping[str, str | bool]
Reason = Annotated[str, Doc("Reason, for the record")]


@dataclasses.dataclass(kw_only=True)
class Credentials(Settings):
    """Settings of every object whose functions read or write records."""

    username: Username = None
    password: Password = None
    registry_service: RegistryService = None
    ledger_username: Annotated[
        dagger.Secret | None, Doc("User name for the ledger's repository; most servers accept any name with a token")
    ] = None
    ledger_password: Annotated[dagger.Secret | None, Doc("Password or token for the ledger's repository")] = None
    ledger_service: Annotated[
        dagger.Service | None, Doc("Git server of the ledger as a service (tcp://host:port), if DNS cannot resolve it")
    ] = None
    ssh_agent: Annotated[dagger.Socket | None, Doc("SSH agent for the ledger's repository, e.g. $SSH_AUTH_SOCK")] = None
    known_hosts: Annotated[dagger.File | None, Doc("Trusted SSH host keys for that agent, e.g. ~/.ssh/known_hosts")] = None
    key: Annotated[dagger.Secret | None, Doc("Private key (PEM) to sign with; its public key must be in release.signers")] = (
        None
    )
    passphrase: Annotated[dagger.Secret | None, Doc("Passphrase of the private key")] = None
    by: Annotated[str, Doc("Author of the record, in git format: Anna <anna@example.com>")] = ""
    ref: Annotated[str, Doc("Branch or tag of the commit, if the checkout has none; verified with git")] = ""
    pull_request: Annotated[str, Doc("Number of the pull request of the CI run; empty if none")] = ""
    run_url: Annotated[str, Doc("URL of the CI run, for the record")] = ""
    as_json: Annotated[bool, Doc("Return JSON")] = False
