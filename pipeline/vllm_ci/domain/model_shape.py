"""Memory that serving a checkpoint needs, estimated from its ``config.json``. Estimates are upper bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_ci.domain.project import TinyModel

FILES = ("config.json", "tokenizer_config.json")
"""Files of a checkpoint that are read, in the order in which :func:`of` takes them."""

# Families of models use different names for the same figure (names as in the `transformers` configurations).
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "model_dim")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
_KV_HEADS = (
    *("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads", "multi_query_group_num"),
    *("num_global_key_value_heads", "swa_num_key_value_heads"),
)
_HEAD = ("head_dim", "global_head_dim", "swa_head_dim", "v_head_dim", "kv_channels", "attention_head_size")
_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "n_ctx"),
    *("max_target_positions", "model_max_length"),
)
_INNER = ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "moe_intermediate_size")
_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
_STATE = ("state_size", "mamba_d_state", "ssm_state_size", "mamba_state_dim")
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config", "decoder", "attn_config")
_MOST_STRETCH = 1024
_BYTES = {"float32": 4, "float": 4, "float64": 8, "bfloat16": 2, "float16": 2, "half": 2}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Dimensions of a model that determine its use of memory.

    Attributes:
        layers: Number of layers, including those with a sliding window or without attention.
        kv_heads: Key and value heads of a layer; 0 when no layer has attention, 1 where all heads share one latent (MLA).
        head_values: Numbers cached for each token and head, keys and values together.
        state_values: Numbers that a layer keeps for each sequence (state space models, linear attention).
        element_bytes: Size of a cached number.
        shortest_limit: Smallest length that the configuration contains, in tokens; 0 when it contains none.
        longest: Longest sequence that vLLM may derive by itself, scaled positions included; 0 when unknown.
        parameters: Number of weights.
    """

    layers: int
    kv_heads: int
    head_values: int
    state_values: int = 0
    element_bytes: int = 2
    shortest_limit: int = 0
    longest: int = 0
    parameters: int = 0

    def token_bytes(self, shards: int = 1) -> int:
        """Size of the cache of one token in each of ``shards`` workers that share the heads."""
        return self.layers * -(-self.kv_heads // shards) * self.head_values * self.element_bytes

    def state_bytes(self, shards: int = 1) -> int:
        """Size of the state that each worker keeps for a sequence of any length; 4 bytes a number."""
        return self.layers * -(-self.state_values // shards) * 4

    @property
    def weight_bytes(self) -> int:
        """Size of the weights in memory."""
        return self.parameters * self.element_bytes


def of(config: Mapping[str, Any], tokenizer: Mapping[str, Any] | None = None) -> ModelShape | None:
    """Shape of the model with this ``config.json`` and ``tokenizer_config.json``; ``None`` when it cannot be determined."""
    flat = _flat(config)
    layers, hidden = _most(flat, _LAYERS), _most(flat, _HIDDEN)
    heads = _most(flat, _HEADS)
    if not layers or not hidden:
        return None
    state = _state(flat, hidden)
    if not heads and not state:
        return None
    kv_heads, head_values = _cached(flat, hidden, heads) if heads else (0, 0)
    lengths = [*_numbers(flat, _LENGTHS), *_numbers(tokenizer or {}, ("model_max_length",))]
    named = [length for length in lengths if length < 10**9]  # tokenizers without a limit have 10**30
    return ModelShape(
        layers=layers,
        kv_heads=kv_heads,
        head_values=head_values,
        state_values=state,
        element_bytes=_BYTES.get(_dtype(flat), 4),
        shortest_limit=min(named, default=0),
        longest=int(max(named, default=0) * _stretch(flat)),
        parameters=_parameters(flat, layers, hidden, heads * (head_values // 2 or hidden)),
    )


def of_tiny(tiny: TinyModel) -> ModelShape:
    """Shape of a generated model (``programs/tiny_model.py`` writes the same configuration)."""
    head = tiny.hidden_size // tiny.heads
    found = of(
        {
            "num_hidden_layers": tiny.layers,
            "hidden_size": tiny.hidden_size,
            "num_attention_heads": tiny.heads,
            "num_key_value_heads": tiny.kv_heads,
            "head_dim": head,
            "intermediate_size": 2 * tiny.hidden_size,
            "vocab_size": tiny.vocabulary,
            "max_position_embeddings": tiny.max_length,
        }
    )
    if found is None:
        raise ValueError("a tiny model needs layers and a hidden size")
    return found


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, with the language model's section of a multimodal model merged into the top level."""
    found = dict(config)
    for name in _NESTED:
        if isinstance(inner := config.get(name), Mapping):
            found |= _flat(inner)
    return found


def _numbers(config: Mapping[str, Any], names: Iterable[str]) -> list[int]:
    """Positive figures under ``names``; lists with one figure for each layer are read too."""
    found = [config.get(name) for name in names]
    single = [value for each in found for value in (each if isinstance(each, list) else [each])]
    numbers = [value for value in single if isinstance(value, int | float) and not isinstance(value, bool)]
    return [int(value) for value in numbers if 0 < value < 10**40]


def _most(config: Mapping[str, Any], names: Iterable[str]) -> int:
    return max(_numbers(config, names), default=0)


def _dtype(config: Mapping[str, Any]) -> str:
    return str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")


def _cached(config: Mapping[str, Any], hidden: int, heads: int) -> tuple[int, int]:
    """Number of cached heads, and cached numbers per head (keys and values together)."""
    if latent := _most(config, ("kv_lora_rank",)):
        # DeepSeek-V2: all heads share one latent vector and one rotary key.
        return 1, latent + _most(config, ("qk_rope_head_dim",))
    head = max(_most(config, _HEAD), -(-hidden // heads) if not _most(config, _HEAD[:3]) else 0)
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return _most(config, ("multi_query_group_num",)) or 1, 2 * head
    return _most(config, _KV_HEADS) or heads, 2 * head


def _state(config: Mapping[str, Any], hidden: int) -> int:
    """Numbers that a layer with a recurrent state keeps for a sequence; a quarter more for its convolution."""
    linear = _most(config, ("linear_num_value_heads",))
    gated = linear * _most(config, ("linear_key_head_dim",)) * _most(config, ("linear_value_head_dim",))
    inner = max(
        _most(config, ("mamba_intermediate_size", "d_inner", "mamba_d_ssm")),
        hidden * (_most(config, ("expand", "mamba_expand")) or 2),
        _most(config, ("mamba_num_heads", "mamba_n_heads")) * _most(config, ("mamba_head_dim", "mamba_d_head")),
    )
    return max(gated, inner * _most(config, _STATE)) * 5 // 4


def _stretch(config: Mapping[str, Any]) -> float:
    """Largest factor by which scaling of rotary positions may lengthen sequences, over all kinds of layers."""
    found = [config.get("rope_scaling"), config.get("rope_parameters")]
    tables = [each for each in found if isinstance(each, Mapping)]
    tables += [inner for each in tables for inner in each.values() if isinstance(inner, Mapping)]
    factors = [each.get("factor") for each in tables]
    numbers = [float(each) for each in factors if isinstance(each, int | float) and not isinstance(each, bool)]
    return max((each for each in numbers if 1 <= each <= _MOST_STRETCH), default=1.0)


def _parameters(config: Mapping[str, Any], layers: int, hidden: int, attention: int) -> int:
    """Embeddings in and out; in each layer four projections of attention and three of each expert."""
    inner = _most(config, _INNER) or 4 * hidden
    experts = max(1, _most(config, _EXPERTS))
    if experts > 1:
        inner = (_most(config, ("moe_intermediate_size",)) or inner) * experts
    layer = 4 * hidden * attention + 3 * hidden * inner
    return 2 * hidden * _most(config, ("vocab_size",)) + layers * layer
