"""Arguments that several functions of the module have, as `dagger call --help` explains them."""

from __future__ import annotations

from typing import Annotated

import dagger
from dagger import DefaultPath, Doc, Ignore

# Never part of a commit, and large. Leaving out tracked files would make every tree look dirty.
_IGNORED = ["**/.venv", "**/__pycache__", "**/.mypy_cache", "**/.ruff_cache", "**/.pytest_cache", "**/.tools", "**/.vllm-ci"]

Source = Annotated[dagger.Directory, DefaultPath("/"), Ignore(_IGNORED), Doc("Checkout of the repository, with its .git")]
Stages = Annotated[list[str] | None, Doc("Stages to run; by default those that the configuration enables")]
Deep = Annotated[bool, Doc("Run every case at its full size, however long it takes: no budget")]
Variant = Annotated[str, Doc("Shipped image spec (cpu, cuda) or path of one; by default the configuration's")]
Gpus = Annotated[str, Doc("none, all or device numbers (0,1); by default the configuration's")]
Checkpoint = Annotated[dagger.Directory | None, Doc("Model to serve in place of the configuration's")]
Secrets = Annotated[list[dagger.Secret] | None, Doc("Secrets that the configuration names, e.g. env://HF_TOKEN")]
ApiKey = Annotated[dagger.Secret | None, Doc("API key that the server asks for; by default what the configuration says")]
Server = Annotated[dagger.Service | None, Doc("Test this server (tcp://host:port) instead; nothing is built")]
Model = Annotated[str, Doc("Name that the given server knows its model by; by default the first it lists")]

Username = Annotated[dagger.Secret | None, Doc("User name for the registry")]
Password = Annotated[dagger.Secret | None, Doc("Password or token for the registry")]
RegistryService = Annotated[dagger.Service | None, Doc("Where that registry is, if no name server knows it")]
LedgerUsername = Annotated[dagger.Secret | None, Doc("User name for the ledger's repository; with most servers any will do")]
LedgerPassword = Annotated[dagger.Secret | None, Doc("Password or token for the ledger's repository")]
LedgerService = Annotated[dagger.Service | None, Doc("Where that repository's server is, if no name server knows it")]
SshAgent = Annotated[dagger.Socket | None, Doc("SSH agent for the ledger's repository, e.g. $SSH_AUTH_SOCK")]
KnownHosts = Annotated[dagger.File | None, Doc("Host keys to trust with that agent, e.g. ~/.ssh/known_hosts")]
Key = Annotated[dagger.Secret | None, Doc("Private key (PEM) to sign with; by default release.key of the configuration")]
Passphrase = Annotated[dagger.Secret | None, Doc("Passphrase of the private key")]
ReleaseSecrets = Annotated[
    list[dagger.Secret] | None, Doc("Further variables, those that the configuration names, e.g. env://SIGNING_KEY")
]
Osv = Annotated[dagger.Directory | None, Doc("OSV data to scan with, now")]
Reason = Annotated[str, Doc("Why, for the record")]
By = Annotated[str, Doc("Who releases, as git writes it: Anna <anna@example.com>")]
DryRun = Annotated[bool, Doc("Say exactly what would change, and change nothing")]
AsJson = Annotated[bool, Doc("Return JSON")]
