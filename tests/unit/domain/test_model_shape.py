"""What config.json says about memory, for many families of models."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_ci.domain import model_shape
from vllm_ci.domain.project import TinyModel

LLAMA = {
    "num_hidden_layers": 16,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def shape(config: dict[str, Any], tokenizer: dict[str, Any] | None = None) -> model_shape.ModelShape:
    found = model_shape.of(config, tokenizer)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("config", "token_bytes", "longest"),
    [
        (LLAMA, 16 * 8 * 2 * 64 * 2, 131072),
        (LLAMA | {"torch_dtype": "float32"}, 16 * 8 * 2 * 64 * 4, 131072),
        # A newer transformers writes `dtype`; one that is not known counts as 4 bytes.
        ({**LLAMA, "torch_dtype": None, "dtype": "float16"}, 16 * 8 * 2 * 64 * 2, 131072),
        ({**LLAMA, "torch_dtype": "auto"}, 16 * 8 * 2 * 64 * 4, 131072),
        # No head size: width by heads. No key and value heads: all of them.
        ({key: LLAMA[key] for key in LLAMA if key not in ("head_dim", "num_key_value_heads")}, 16 * 32 * 2 * 64 * 2, 131072),
        # GPT-2's names.
        ({"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "dtype": "float16"}, 12 * 12 * 2 * 64 * 2, 1024),
        # Falcon: one head for all, unless it has the new architecture.
        (
            {"num_hidden_layers": 32, "hidden_size": 4544, "num_attention_heads": 71, "multi_query": True, "dtype": "float16"},
            32 * 1 * 2 * 64 * 2,
            0,
        ),
        (
            {
                "num_hidden_layers": 60,
                "hidden_size": 8192,
                "num_attention_heads": 128,
                "num_kv_heads": 8,
                "multi_query": True,
                "new_decoder_architecture": True,
                "dtype": "bfloat16",
            },
            60 * 8 * 2 * 64 * 2,
            0,
        ),
        # DeepSeek-V2-Lite: one latent of 512 and a rotary key of 64.
        (
            {
                "num_hidden_layers": 27,
                "hidden_size": 2048,
                "num_attention_heads": 16,
                "num_key_value_heads": 16,
                "kv_lora_rank": 512,
                "qk_rope_head_dim": 64,
                "qk_nope_head_dim": 128,
                "v_head_dim": 128,
                "max_position_embeddings": 163840,
                "torch_dtype": "bfloat16",
            },
            27 * 576 * 2,
            163840,
        ),
        # Gemma 3: sliding layers count like the others; the text model is nested.
        (
            {
                "text_config": {
                    "num_hidden_layers": 34,
                    "hidden_size": 2560,
                    "num_attention_heads": 8,
                    "num_key_value_heads": 4,
                    "head_dim": 256,
                    "sliding_window": 1024,
                    "max_position_embeddings": 131072,
                },
                "vision_config": {"num_hidden_layers": 27, "hidden_size": 1152, "num_attention_heads": 16},
                "torch_dtype": "bfloat16",
            },
            34 * 4 * 2 * 256 * 2,
            131072,
        ),
        # Layers with larger heads than the others.
        (LLAMA | {"global_head_dim": 512}, 16 * 8 * 2 * 512 * 2, 131072),
        # One figure for each layer.
        (LLAMA | {"num_key_value_heads": [4, 8, 16]}, 16 * 16 * 2 * 64 * 2, 131072),
        # Scaled positions: as long as it may get.
        (LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 16 * 8 * 2 * 64 * 2, 524288),
        (LLAMA | {"rope_parameters": {"full": {"factor": 2}, "sliding": {}}}, 16 * 8 * 2 * 64 * 2, 262144),
    ],
)
def test_the_cache_of_a_token(config: dict[str, Any], token_bytes: int, longest: int) -> None:
    found = shape(config)
    assert found.token_bytes() == token_bytes
    assert found.longest == longest


def test_shards_share_the_heads_but_not_a_latent() -> None:
    assert shape(LLAMA).token_bytes(2) * 2 == shape(LLAMA).token_bytes()
    assert shape(LLAMA).token_bytes(16) == shape(LLAMA).token_bytes(8), "a head is not cut"
    latent = shape(LLAMA | {"kv_lora_rank": 512})
    assert latent.token_bytes(2) == latent.token_bytes()


def test_a_recurrent_state_is_counted_for_each_sequence() -> None:
    mamba = shape({"num_hidden_layers": 48, "hidden_size": 1536, "state_size": 128, "expand": 2})
    assert mamba.token_bytes() == 0
    assert mamba.state_bytes() >= 48 * 2 * 1536 * 128 * 4
    mixed = shape(LLAMA | {"linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128})
    assert mixed.token_bytes() == shape(LLAMA).token_bytes()
    assert mixed.state_bytes() >= 16 * 32 * 128 * 128 * 4


def test_the_weights_are_not_underestimated() -> None:
    """1.24 billion parameters, of which the embedding is shared."""
    assert 1.24e9 * 2 <= shape(LLAMA).weight_bytes <= 2.0e9 * 2
    mixtral = {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 32000,
        "num_local_experts": 8,
        "dtype": "bfloat16",
    }
    assert 46.7e9 * 2 <= shape(mixtral).weight_bytes <= 55e9 * 2


def test_a_tokenizer_may_have_the_shorter_limit_and_none_is_no_limit() -> None:
    assert shape(LLAMA, {"model_max_length": 4096}).shortest_limit == 4096
    assert shape(LLAMA, {"model_max_length": 10**30}).shortest_limit == 131072
    assert shape(LLAMA, {"model_max_length": float("inf")}).shortest_limit == 131072


@pytest.mark.parametrize(
    "config", [{}, {"model_type": "llama"}, {"hidden_size": 64}, {"num_hidden_layers": 2, "hidden_size": 64}]
)
def test_what_does_not_tell_it_has_no_shape(config: dict[str, Any]) -> None:
    assert model_shape.of(config) is None


def test_a_tiny_model_has_the_shape_of_the_configuration_it_is_made_with() -> None:
    tiny = TinyModel(layers=3, hidden_size=256, heads=4, kv_heads=2, max_length=4096)
    found = model_shape.of_tiny(tiny)
    assert found.token_bytes() == 3 * 2 * 2 * 64 * 4
    assert found.longest == found.shortest_limit == 4096


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["factor", "head_dim", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
_KEYS = st.sampled_from(
    [
        *("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "dtype", "torch_dtype"),
        *("rope_scaling", "rope_parameters", "text_config", "state_size", "kv_lora_rank", "max_position_embeddings"),
        *("vocab_size", "intermediate_size", "num_experts", "multi_query", "model_max_length"),
    ]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_KEYS, _VALUES), st.dictionaries(_KEYS, _VALUES))
def test_nothing_in_a_configuration_breaks_it(config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    found = model_shape.of(config, tokenizer)
    if found is not None:
        assert found.token_bytes() >= 0
        assert found.weight_bytes >= 0
        assert found.longest >= 0
