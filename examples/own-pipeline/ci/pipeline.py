"""The pipeline of this project: `vllm-ci run` finds this file."""

import time

from vllm_ci import Case, CaseStatus, Image, Pipeline, Report, Server, stage


@stage(timeout_s=120)
async def latency(server: Server) -> list[Case]:
    """Three short completions, each within ten seconds."""
    cases = []
    async with server.client() as http:
        for number in range(3):
            begun = time.monotonic()
            body = {"model": server.model, "prompt": "The sky is", "max_tokens": 4}
            answer = await http.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            took_s = time.monotonic() - begun
            status = CaseStatus.PASSED if took_s < 10 else CaseStatus.FAILED
            cases.append(Case(name=f"completion-{number}", status=status, properties={"took_s": took_s}))
    return cases


async def pipeline(ci: Pipeline) -> Report:
    """Look into the image while a server of it starts, then test what answers."""
    image = await ci.build()
    await ci.together(
        ci.test(image, "versions"),
        against_a_server(ci, image),
    )
    return ci.report()


async def against_a_server(ci: Pipeline, image: Image) -> None:
    async with ci.serve(image) as server:
        await ci.test(server, "smoke", latency)
