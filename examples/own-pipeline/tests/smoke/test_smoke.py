"""Against the server, with the fixtures of vllm-ci."""


def test_the_model_is_listed(http, server):
    models = http.get("/v1/models").json()
    assert server.model in [model["id"] for model in models["data"]]


def test_a_completion_has_text(client):
    assert client.complete("Hello", max_tokens=4)["choices"][0]["text"]
