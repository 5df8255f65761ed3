"""Names that nothing in the package uses and that are needed: each group says why. Read by vulture (``ci/test``)."""

# Loaded by name: engines by their table, the module by its entry point.
HostEngine
MemoryEngine
open_kubernetes
open_local
open_memory
VllmCi

# Read by Dagger's SDK: what it shows of a function, and a member of an enumeration that a caller may choose.
_.__doc__
_.__annotations__
_.CUDA

# Called by the library that they are handed to: asyncio's protocols and writers, httptools' parsers, importlib's loaders.
_.connection_made
_.data_received
_.eof_received
_.connection_lost
_.writelines
_.on_message_begin
_.on_headers_complete
_.on_message_complete
_.on_header
_.on_body
_.get_code
_.submodule_search_locations
_.cached
# A fixture that pytest uses for every case.
_behind_the_server
# requests' and urllib3's hooks for connections.
_.ConnectionCls
_.pool_classes_by_scheme
_.cert_verify
# http.server's and socketserver's settings and hooks.
_.log_message
_.protocol_version
_.disable_nagle_algorithm
_.wbufsize
_.close_connection
_.do_HEAD
_.daemon_threads
_.request_queue_size
_._referrers  # found by the name of a route
# Fields of tarfile's and tokenizers' objects.
_.gname
_.uname
_.mtime
_.pre_tokenizer
# pydantic calls validators and reads the configuration of a model; pytest calls fixtures.
_.model_config
_._fits
_._as_written
_._one_key
_._harmless
_._harmless_key
_._served_name_of_ref
_._model_of_repository
_._ordered
_._patient
_._possible
_._another
_._rising
_._usable
_capabilities
_vllm_identity
# click's commands, reached through their groups.
prune_command
diff
list_

# Python's own hooks.
__getattr__
__dir__
_.__doc__
_.__annotations__

# The public interface of pipelines as code, and of the engine that users test them with (docs/api.md).
open_pipeline
run_pipeline
_.on
passes
fails
times_out
kills_the_server
_.CUDA  # a value of an enum, chosen by its name

# For callers of the library.
pull  # push's counterpart in vllm_ci.registry.transfer
_.present_bytes  # of a push: the rest of its account
_.pushed_blobs
_.isolated  # what an engine says of itself
_.shm
_.first_byte_ms  # what was measured of an exchange
_.comments  # what a decoder of server-sent events has seen
_.retry_ms
_.unfinished
_.token68  # the one value of a challenge that has no parameters (RFC 9110, 11.2)
InconclusiveError  # the documented class of exit code 4

# The public interface for pipelines in Python (docs/api.md), which the package itself loads by name.
__getattr__
__dir__
open_pipeline
run_pipeline
MemoryEngine
open_kubernetes
open_local
open_memory
_.on
passes
fails
times_out
kills_the_server

# Called by io.BufferedReader and http.client.HTTPResponse.
_.readinto
_.makefile

# Called by PyYAML.
_.ignore_aliases

# Attributes of a pygal chart; read by the template of the report.
_.x_labels
_.y_labels
_.svg
_.on_broken_pipe  # rich calls it
_.event_hooks  # httpx reads it
_.matrix_stages  # public: pipelines of users

# The trainers of transformers and TRL call them, in the image for training.
_._prepare_dataset
_.compute_ref_log_probs
_.on_train_begin
_.on_step_begin
_.on_log
_.on_save

# Settings of a training: the program reads them as JSON.
_.epochs
_.learning_rate
_.batch_size
_.dropout
_.beta
_.warmup
_.weight_decay
_.save_every
_.gradient_checkpointing

# Called by pydantic.
_._one_way
_._two_aliases

# Called by benchmarks/overhead.py.
_.processor_s

# A function of the Dagger module.
_.retrain
