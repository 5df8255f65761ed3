"""Messages of vLLM's gRPC service, as far as the double serves it: names, numbers and types as in vLLM's own protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

ENGINE = "vllm.grpc.engine.VllmEngine"
_PACKAGE, _COMMON = "vllm.grpc.engine", "smg.grpc.common"
_TYPES = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("string", "bool", "uint32", "int32", "float", "double", "bytes")
}

# A field is `number type name`: `*` repeats it, `?` makes it optional, `|GROUP` puts it in a oneof; a map is of int32 to float.
MESSAGES: Mapping[str, tuple[str, ...]] = {
    "ChoiceConstraint": ("1 *string choices",),
    "SamplingParams": (
        *("1 ?float temperature", "2 float top_p", "3 uint32 top_k", "4 float min_p", "5 float frequency_penalty"),
        *("6 float presence_penalty", "7 float repetition_penalty", "8 ?uint32 max_tokens", "9 uint32 min_tokens"),
        *(
            "10 *string stop",
            "11 *uint32 stop_token_ids",
            "14 bool ignore_eos",
            "15 uint32 n",
            "16 string json_schema|constraint",
        ),
        *("17 string regex|constraint", "18 string grammar|constraint", "22 ?int32 logprobs", "24 ?int32 seed"),
        "26 map logit_bias",
    ),
    "TokenizedInput": ("1 string original_text", "2 *uint32 input_ids"),
    "GenerateRequest": (
        *("1 string request_id", "2 TokenizedInput tokenized|input", "3 string text|input"),
        *("4 SamplingParams sampling_params", "5 bool stream"),
        "9 ?int32 data_parallel_rank",
    ),
    "TopLogProbs": ("1 *float values", "2 *uint32 token_ids"),
    "OutputLogProbs": ("1 *float token_logprobs", "2 *uint32 token_ids", "3 *TopLogProbs top_logprobs"),
    "GenerateStreamChunk": (
        *("1 *uint32 token_ids", "2 uint32 prompt_tokens", "3 uint32 completion_tokens", "4 uint32 cached_tokens"),
        *("5 OutputLogProbs output_logprobs", "7 uint32 index"),
    ),
    "GenerateComplete": (
        *("1 *uint32 output_ids", "2 string finish_reason", "3 uint32 prompt_tokens", "4 uint32 completion_tokens"),
        *("6 OutputLogProbs output_logprobs", "8 uint32 index", "10 uint32 matched_token_id|matched_stop"),
        "11 string matched_stop_str|matched_stop",
    ),
    "GenerateResponse": ("1 GenerateStreamChunk chunk|response", "2 GenerateComplete complete|response"),
    "EmbedRequest": ("1 string request_id", "2 TokenizedInput tokenized"),
    "EmbedResponse": ("1 *float embedding", "2 uint32 prompt_tokens", "3 uint32 embedding_dim"),
    "HealthCheckRequest": (),
    "HealthCheckResponse": ("1 bool healthy", "2 string message"),
    "AbortRequest": ("1 *string request_ids",),
    "AbortResponse": (),
    "GetModelInfoRequest": (),
    "GetModelInfoResponse": (
        *("1 string model_path", "2 bool is_generation", "3 uint32 max_context_length", "4 uint32 vocab_size"),
        *("6 string served_model_name", "10 *int32 eos_token_ids", "11 int32 pad_token_id", "12 int32 bos_token_id"),
    ),
    "GetServerInfoRequest": (),
    "GetServerInfoResponse": (
        "1 uint32 active_requests",
        "2 bool is_paused",
        "4 double uptime_seconds",
        "5 string server_type",
    ),
    "GetLoadsRequest": ("1 ?int32 dp_rank",),
    "SchedulerLoad": ("1 int32 dp_rank", "2 int32 num_running_reqs", "3 int32 num_waiting_reqs", "7 double token_usage"),
    "GetLoadsResponse": ("1 string timestamp", "2 string version", "3 int32 dp_rank_count", "4 *SchedulerLoad loads"),
}
COMMON: Mapping[str, tuple[str, ...]] = {
    "GetTokenizerRequest": (),
    "GetTokenizerChunk": ("1 bytes data", "2 string sha256"),
}
METHODS: Mapping[str, tuple[str, str, bool]] = {
    "Generate": ("GenerateRequest", "GenerateResponse", True),
    "GetTokenizer": ("GetTokenizerRequest", "GetTokenizerChunk", True),
    **{
        name: (f"{name}Request", f"{name}Response", False)
        for name in ("Embed", "HealthCheck", "Abort", "GetModelInfo", "GetServerInfo", "GetLoads")
    },
}
"""Request, response, and whether the response is a stream, by method."""


def pool(messages: Mapping[str, tuple[str, ...]] = MESSAGES, methods: Mapping[str, tuple[str, str, bool]] = METHODS) -> Any:
    """The files of the service."""
    made = descriptor_pool.DescriptorPool()
    made.Add(_file("common.proto", _COMMON, COMMON))
    engine = _file("vllm_engine.proto", _PACKAGE, messages)
    engine.dependency.append("common.proto")
    service = engine.service.add(name=ENGINE.rpartition(".")[2])
    for name, (request, response, streams) in methods.items():
        service.method.add(name=name, input_type=_full(request), output_type=_full(response), server_streaming=streams)
    made.Add(engine)
    return made


def _full(name: str) -> str:
    return f".{_COMMON if name in COMMON else _PACKAGE}.{name}"


def _file(name: str, package: str, messages: Mapping[str, tuple[str, ...]]) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    for each, fields in messages.items():
        made = file.message_type.add(name=each)
        for field in fields:
            _add(made, *field.split())
        _optional_last(made)
    return file


def _add(made: Any, number: str, kind: str, named: str) -> None:
    if kind == "map":
        _add_map(made, int(number), named)
        return
    name, _, group = named.partition("|")
    field = made.field.add(name=name, number=int(number), label=3 if kind.startswith("*") else 1)
    plain = kind.lstrip("*?")
    if plain in _TYPES:
        field.type = _TYPES[plain]
    else:
        field.type, field.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, _full(plain)
    if group:
        known = [each.name for each in made.oneof_decl]
        if group not in known:
            made.oneof_decl.add(name=group)
        field.oneof_index = [each.name for each in made.oneof_decl].index(group)
    field.proto3_optional = kind.startswith("?")


def _add_map(made: Any, number: int, name: str) -> None:
    """Protocol Buffers, "Maps": a message for each entry, with a key and a value."""
    entry = made.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=_TYPES["int32"])
    entry.field.add(name="value", number=2, label=1, type=_TYPES["float"])
    kind = f".{_PACKAGE}.{made.name}.{entry.name}"
    field = made.field.add(name=name, number=number, label=3, type_name=kind)
    field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE


def _optional_last(made: Any) -> None:
    """Optional fields of proto3 are in a oneof each, after the others."""
    for field in made.field:
        if field.proto3_optional:
            made.oneof_decl.add(name=f"_{field.name}")
            field.oneof_index = len(made.oneof_decl) - 1


POOL = pool()
_CLASSES = {name: message_factory.GetMessageClass(POOL.FindMessageTypeByName(_full(name)[1:])) for name in (*MESSAGES, *COMMON)}


def message(name: str) -> Any:
    """The class of a message; made once, because threads ask for it at the same time."""
    return _CLASSES[name]
