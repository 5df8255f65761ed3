"""The pipeline of a team that serves a chat model: functions of vllm-ci and its own."""

from typing import Annotated

import dagger
from dagger import DefaultPath, Doc, check, dag, function, object_type

# Asks the server what it serves, and for one answer.
SMOKE = """
import json, urllib.request

def ask(path, body=None):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request("http://vllm:8000" + path, data, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=120))

model = ask("/v1/models")["data"][0]["id"]
answer = ask("/v1/completions", {"model": model, "prompt": "Hello", "max_tokens": 8})
assert answer["usage"]["completion_tokens"] == 8, answer
print(model, "answers")
"""


@object_type
class Chat:
    """Build, try and release the chat server."""

    source: Annotated[dagger.Directory, DefaultPath("/"), Doc("Checkout of the repository, with its .git")]

    def _ci(self) -> dagger.VllmCi:
        return dag.vllm_ci(source=self.source)

    @function(cache="session")
    async def build(self) -> dagger.Container:
        """Build the image of the commit, refusing uncommitted changes."""
        image = self._ci().build()
        if await image.dirty():
            raise ValueError("commit your changes first: git status")
        return image.container()

    @function(cache="never")
    @check
    async def smoke(self) -> str:
        """Ask the server for one answer, as our clients do."""
        return await (
            dag.container()
            .from_("python:3.12-slim")
            .with_service_binding("vllm", self._ci().serve())
            .with_exec(["python", "-c", SMOKE])
            .stdout()
        )

    @function(cache="never")
    async def release(
        self,
        key: Annotated[dagger.Secret, Doc("Private key to sign with")],
        passphrase: Annotated[dagger.Secret | None, Doc("Passphrase of that key")] = None,
        username: Annotated[dagger.Secret | None, Doc("User name for the registry")] = None,
        password: Annotated[dagger.Secret | None, Doc("Password or token for the registry")] = None,
        ledger_password: Annotated[dagger.Secret | None, Doc("Password or token for the ledger's repository")] = None,
        registry_service: Annotated[dagger.Service | None, Doc("The registry, if only this machine reaches it")] = None,
        ledger_service: Annotated[dagger.Service | None, Doc("The ledger's server, if only this machine reaches it")] = None,
        by: Annotated[str, Doc("Who releases")] = "CI <ci@example.com>",
        dry_run: Annotated[bool, Doc("Only say what would change")] = False,
    ) -> str:
        """Try the server, run the stages, and publish what passed to the first channel."""
        said = await self.smoke()
        release = self._ci().release(
            key=key,
            passphrase=passphrase,
            username=username,
            password=password,
            ledger_password=ledger_password,
            registry_service=registry_service,
            ledger_service=ledger_service,
            by=by,
            dry_run=dry_run,
        )
        return said + await release.publish(run=True)
