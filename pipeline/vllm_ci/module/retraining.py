"""A retraining as an object: what is trained and on which data is said once; it can be checked, and run."""

from typing import Annotated

import dagger
from dagger import Doc, object_type

from vllm_ci.module.caching import never_cached
from vllm_ci.module.credentials import Credentials, Reason


@object_type
class Retraining(Credentials):
    """A retraining of a model: training, comparison with the champion, registration."""

    plan: Annotated[
        str, Doc("Path in the source of the file that says how; by default retrain.yaml beside the configuration")
    ] = ""
    data: Annotated[
        dagger.Directory | None, Doc("Prepared data (train.jsonl, test.jsonl), in place of the data that the file names")
    ] = None

    @never_cached
    async def check(self) -> str:
        """Check the files, the data and the base model, and do nothing."""
        from vllm_ci.module import retraining_verbs

        return await retraining_verbs.checked(self)

    @never_cached
    async def run(
        self,
        promote: Annotated[bool | None, Doc("Also move the champion's alias; by default what the file says")] = None,
        reason: Reason = "",
    ) -> str:
        """Train, compare with the champion, and register the model if it is provably better; fail if it is not."""
        from vllm_ci.module import retraining_verbs

        return await retraining_verbs.ran(self, promote, reason)
