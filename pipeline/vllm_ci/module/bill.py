"""Write the bill of materials of an image in the builder's store.

A program that runs in the tool's container, which has that store: ``bill.py REFERENCE COMMIT FILE``.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence.materials import materials
from vllm_ci.evidence.predicates import sbom
from vllm_ci.images.materials import read
from vllm_ci.images.store import Store


def bill(store: Store, reference: str, commit: str, *, at: datetime) -> str:
    """CycloneDX 1.6 in JSON: the materials of the image, as recorded when it was built.

    Raises:
        BuildError: The image was not built here.
    """
    repository, _, digest = reference.partition("@")
    statement = sbom.statement(
        ImageRef(repository=repository, digest=digest), Commit(sha=commit), materials(read(store, digest)), at=at
    )
    return json.dumps(statement.predicate, indent=2) + "\n"


if __name__ == "__main__":
    _reference, _commit, _file = sys.argv[1:]
    Path(_file).write_text(bill(Store(), _reference, _commit, at=datetime.now(UTC)), encoding="utf-8")
