"""Known causes why vLLM does not start: a pattern of the message, what it means, and what to change.

Data only. Patterns are regular expressions, tried in this order, against an exception with its message (or against a line of
the log, where there is no exception). They are short, because versions of vLLM word the same error differently. The texts can
refer to named groups of a pattern as ``{name}``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Known:
    """A known cause.

    Attributes:
        title: A few words, for the table in the documentation.
        pattern: Regular expression that matches the message.
        explanation: What it means, as a full sentence.
        change: What to change, naming keys of ``vllm-ci.yaml``.
    """

    title: str
    pattern: str
    explanation: str
    change: str


_LENGTH = "`--max-model-len` in `server.args`"

KNOWN = (
    # --- command line and configuration of vLLM
    Known(
        title="flag unknown to this version",
        pattern=r"error: unrecognized arguments: (?P<flag>.+)|error: ambiguous option: (?P<option>\S+)",
        explanation="This version of vLLM does not have such a flag; flags differ between versions.",
        change="correct or remove it in `server.args`; `vllm serve --help=all` of the version in the image lists its flags",
    ),
    Known(
        title="flag with an invalid value",
        pattern=r"error: argument (?P<flag>\S+): |: error: (?:the following arguments are required|.*expected (?:one|at least))",
        explanation="vLLM does not accept the value of this flag.",
        change="correct it in `server.args`; the message names the flag and in most cases the allowed values",
    ),
    Known(
        title="max_model_len beyond what the model supports",
        pattern=r"max_model_len.{0,40}is greater than the (?:derived|maximum|model)",
        explanation="The requested context length is longer than the model supports.",
        change=f"lower {_LENGTH} to the model's own maximum, or leave it out",
    ),
    Known(
        title="max_num_batched_tokens too small",
        pattern=r"max_num_batched_tokens.{0,40}(?:is )?smaller than max_(?:model_len|num_seqs)|max_num_batched_tokens .{0,60}must be "
        r"greater",
        explanation="One step of the scheduler must fit a whole prompt (or one token of each sequence).",
        change=f"raise `--max-num-batched-tokens` or lower {_LENGTH} or `--max-num-seqs` there",
    ),
    # --- memory
    Known(
        title="KV cache too small for max_model_len",
        pattern=r"estimated maximum model length is (?P<length>\d+)",
        explanation="The KV cache is too small for one request of the longest allowed length.",
        change=f"set {_LENGTH} to at most {{length}}, or raise `--kv-cache-memory-bytes` or `--gpu-memory-utilization` there",
    ),
    Known(
        title="KV cache too small for max_model_len",
        pattern=r"To serve at least one request|larger than the (?:maximum number of tokens that can be stored in|available) KV cache",
        explanation="The KV cache is too small for one request of the longest allowed length.",
        change=f"lower {_LENGTH}, or raise `--kv-cache-memory-bytes` or `--gpu-memory-utilization` there",
    ),
    Known(
        title="no memory left for the KV cache",
        pattern=r"No available memory for the cache blocks|Available KV cache memory: -",
        explanation="The model's weights and working memory take all the memory that vLLM may use.",
        change="raise `--gpu-memory-utilization` or set `--kv-cache-memory-bytes` in `server.args`, lower `--max-num-seqs` or "
        "`--max-num-batched-tokens` there, or serve a smaller model",
    ),
    Known(
        title="not enough free GPU memory",
        pattern=r"[Ff]ree memory on device.{0,160}(?:is )?less than|not enough free memory on (?:the )?(?:GPU|device)",
        explanation="Another program uses memory of this GPU, so vLLM's share is not free.",
        change="stop the other program (`nvidia-smi` shows it), choose another device with `server.gpus`, or lower "
        "`--gpu-memory-utilization` in `server.args`",
    ),
    Known(
        title="GPU out of memory",
        pattern=r"(?:CUDA|HIP|XPU) out of memory|OutOfMemoryError|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        explanation="The GPU's memory is too small for the model and its working memory.",
        change="lower `--max-model-len`, `--max-num-seqs` or `--gpu-memory-utilization` in `server.args`, spread the model over "
        "several devices (`--tensor-parallel-size` with `server.gpus`), or serve a smaller or quantized model",
    ),
    Known(
        title="not enough memory on a CPU server",
        pattern=r"Available memory on node|Memory on node .{0,120}(?:less than|exceed)|"
        r"[Nn]ot enough (?:available )?memory .{0,60}(?:KV|kv) ?cache|VLLM_CPU_KVCACHE_SPACE.{0,80}(?:too large|exceed)|"
        r"memory .{0,80}less than (?:desired|requested) (?:CPU )?memory",
        explanation="The server's share of the machine's memory (mostly for the KV cache) is not free.",
        change="set a smaller `--kv-cache-memory-bytes` (or `--gpu-memory-utilization`, which applies to CPUs too) in "
        "`server.args`, a smaller `VLLM_CPU_KVCACHE_SPACE` in `server.env`, or stop other programs",
    ),
    Known(
        title="out of memory",
        pattern=r"MemoryError|std::bad_alloc|DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|\[Errno 12\]",
        explanation="The operating system refused to give the server more memory.",
        change="lower `--kv-cache-memory-bytes` and `--max-num-seqs` in `server.args`, serve a smaller model, or run on a machine "
        "(or with a container limit) that has more memory",
    ),
    Known(
        title="ended by SIGKILL",
        pattern=r"[Ff]ailed core proc\(s\):.{0,80}: -9\b|died unexpectedly \(exit code: -9\)|\bexit code:? (?:-9|137)\b|SIGKILL|"
        r"^Killed$|exitcode[=:] ?-9\b",
        explanation="A process of the server was killed, most likely by the kernel's out-of-memory killer or because of a "
        "container's memory limit.",
        change="lower `--kv-cache-memory-bytes` (or `--gpu-memory-utilization`) and `--max-num-seqs` in `server.args`, serve a "
        "smaller model, or give the machine or container more memory; `dmesg` or `kubectl describe pod` shows the kill",
    ),
    Known(
        title="shared memory too small",
        pattern=r"/dev/shm|[Ii]nsufficient shared memory|shm.{0,40}(?:No space left|too small)|Bus error|exit code:? (?:-7|135)\b|"
        r"[Ff]ailed core proc\(s\):.{0,80}: -7\b",
        explanation="Processes of the server exchange data through /dev/shm, which is too small (containers get 64 MiB by default).",
        change="raise `server.shm_mib` (tensor parallelism needs 1024 or more)",
    ),
    Known(
        title="disk full",
        pattern=r"No space left on device|\[Errno 28\]|Disk quota exceeded|\[Errno 122\]",
        explanation="A disk is full: model files, caches of compiled kernels and the temporary directory need space.",
        change="free some space, or move the caches with VLLM_CI_HOME, or with `HF_HOME`, `VLLM_CACHE_ROOT` and `TMPDIR` in "
        "`server.env`",
    ),
    # --- network
    Known(
        title="port in use",
        pattern=r"[Aa]ddress already in use|\[Errno 98\]|EADDRINUSE|port \d+ is (?:already )?(?:in use|taken)",
        explanation="Another program listens on the server's port.",
        change="stop that program, or set another `server.port` (0: any free port); remove `--port` from `server.args` if it is set",
    ),
    Known(
        title="port needs privileges",
        pattern=r"(?:PermissionError|error while attempting to bind).{0,120}(?:bind|address \()|bind.{0,60}[Pp]ermission denied",
        explanation="Ports below 1024 are reserved for privileged users.",
        change="set `server.port` to 1024 or higher",
    ),
    Known(
        title="address not on this machine",
        pattern=r"[Cc]annot assign requested address|\[Errno 99\]",
        explanation="The server was configured to listen on an address that this machine does not have.",
        change="remove `--host` from `server.args`: the engine chooses the address",
    ),
    # --- devices
    Known(
        title="no CUDA driver or library",
        pattern=r"libcuda\.so|libcudart\.so|libnvidia-ml|NVIDIA driver|no NVIDIA GPU|No CUDA GPUs are available|"
        r"CUDA driver version is insufficient|no CUDA-capable device|NVML (?:Shared )?[Ll]ibrary|CUDA initialization",
        explanation="This image is for NVIDIA GPUs, and the server sees no GPU or no suitable driver.",
        change="set `server.gpus` to `all` (or device numbers) and run on a machine with a current NVIDIA driver, or test the CPU "
        "image (`image.spec: cpu`)",
    ),
    Known(
        title="device type unknown",
        pattern=r"[Ff]ailed to infer device type|UnspecifiedPlatform|Unsupported platform",
        explanation="vLLM found no device that this build of it can run on.",
        change="set `server.gpus` to `all` for a CUDA image on a machine with a driver, or test the CPU image (`image.spec: cpu`)",
    ),
    Known(
        title="not enough devices",
        pattern=r"[Ww]orld size .{0,60}(?:larger than|exceed)|invalid device ordinal|[Tt]ensor parallel size.{0,80}exceed|"
        r"local_rank .{0,40}(?:out of bounds|exceed)|Not enough (?:allowed NUMA|total available) nodes|"
        r"NUMA nodes?.{0,80}(?:less than|not enough)|number of required .{0,20}s exceeds",
        explanation="Tensor or pipeline parallelism needs more devices (on CPUs: NUMA nodes) than the server sees.",
        change="lower `--tensor-parallel-size` in `server.args`, or add devices with `server.gpus`",
    ),
    Known(
        title="tensor parallel size does not divide the model",
        pattern=r"must be divisible by (?:the )?tensor.?parallel|is not divisible by|must be divisible by tp",
        explanation="The model's heads (or other dimensions) cannot be split evenly by that number.",
        change="set `--tensor-parallel-size` in `server.args` to a divisor of the number in the message",
    ),
    Known(
        title="NCCL failed",
        pattern=r"NCCL (?:error|WARN)|ncclSystemError|ncclInternalError|unhandled (?:system|cuda) error|ProcessGroupNCCL",
        explanation="The processes on the GPUs could not connect to each other.",
        change="raise `server.shm_mib`, and set `NCCL_DEBUG: INFO` in `server.env` to see details in the log",
    ),
    Known(
        title="bfloat16 unsupported by the GPU",
        pattern=r"[Bb]float16 is only supported on GPUs",
        explanation="This GPU is too old for bfloat16, the data type of most models.",
        change="add `--dtype=half` to `server.args`",
    ),
    Known(
        title="GPU too old for the model or quantization",
        pattern=r"[Cc]ompute [Cc]apability|no kernel image is available|Minimum capability",
        explanation="This GPU's generation (compute capability) lacks what the model or its quantization needs.",
        change="serve a model with another quantization or data type (`--quantization`, `--dtype` in `server.args`), or use a newer GPU",
    ),
    Known(
        title="instruction not supported by this CPU",
        pattern=r"[Ii]llegal instruction|SIGILL|exit code:? (?:-4|132)\b|[Ff]ailed core proc\(s\):.{0,80}: -4\b|AVX",
        explanation="vLLM for CPUs was compiled for instructions (AVX2 or AVX-512) that this processor does not have.",
        change="run on a newer processor, or use a build of vLLM for this one in the image's lock",
    ),
    # --- model
    Known(
        title="trust_remote_code needed",
        pattern=r"trust_remote_code|trust-remote-code|requires you to execute the",
        explanation="The model contains Python code, which vLLM runs only if it is told to trust it.",
        change="read that code, then add `--trust-remote-code` to `server.args`",
    ),
    Known(
        title="gated model",
        pattern=r"GatedRepoError|gated repo|Access to model .{0,120}restricted|401 Client Error|403 Client Error|"
        r"Invalid (?:user )?(?:token|username or password)",
        explanation="The model hub gives this model only to users with access.",
        change="request access on the model's page, export a token as HF_TOKEN, and add `HF_TOKEN` to `server.secrets`",
    ),
    Known(
        title="tokenizer missing",
        pattern=r"Can't load tokenizer|[Tt]okenizer.{0,60}(?:not found|does not exist|is missing|cannot be found)|Couldn't instantiate the "
        r"backend tokenizer|Unable to load vocabulary|No tokenizer (?:file )?found|[Ff]ailed to load the tokenizer|"
        r"tokenizer\.model\b.{0,60}not",
        explanation="The model's folder has no tokenizer, or one that cannot be read.",
        change="add the tokenizer's files (tokenizer.json, tokenizer_config.json) to `model.path`, or set another one with "
        "`--tokenizer` in `server.args`",
    ),
    Known(
        title="model hub not reachable or offline",
        pattern=r"outgoing traffic has been disabled|OfflineModeIsEnabled|couldn't connect to|LocalEntryNotFoundError|"
        r"cannot find the requested files in the (?:disk|local) cache|huggingface\.co.{0,160}(?:resolve|timed out|refused|unreachable|"
        r"Max retries)|Cannot reach https?://|Temporary failure in name resolution",
        explanation="The model is not on this machine, and the model hub cannot be reached from here (or `HF_HUB_OFFLINE` is set).",
        change="serve a checkpoint from a folder with `model.path`, or remove `HF_HUB_OFFLINE` and `TRANSFORMERS_OFFLINE` from "
        "`server.env` and allow the connection (for a mirror, set `HF_ENDPOINT` there)",
    ),
    Known(
        title="model not found",
        pattern=r"Invalid repository ID or local directory|Repo id must|RepositoryNotFoundError|RevisionNotFoundError|"
        r"is not a (?:local folder|valid model identifier)|does not appear to have a file named|404 Client Error|"
        r"Unrecognized model in|No such file or directory: .{0,200}config\.json|model path .{0,120}(?:not exist|not found)",
        explanation="No model has that name or is in that folder, or its config.json is missing.",
        change="correct `model.path` (a folder with config.json and weights) or `model.name` and `model.revision`; remove `--model` "
        "from `server.args` if it is set",
    ),
    Known(
        title="unknown model type",
        pattern=r"does not recognize this architecture|Unrecognized configuration class|[Mm]odel type .{0,80}not (?:recognized|supported)",
        explanation="The transformers library in the image does not know this type of model: the model is newer than the image.",
        change="update vllm and transformers in the image's lock (vllm-ci lock), or correct `model_type` in the model's config.json",
    ),
    Known(
        title="architecture not supported",
        pattern=r"[Mm]odel architectures? .{0,200}(?:not supported|failed to be inspected|was supported)|Cannot find model module",
        explanation="This version of vLLM cannot serve this kind of model.",
        change="use a version of vLLM that supports it in the image's lock (vllm-ci lock), or serve another model",
    ),
    Known(
        title="weights missing or damaged",
        pattern=r"Cannot find any .{0,20}model weights|SafetensorError|HeaderTooLarge|InvalidHeader|incomplete metadata|MetadataIncomplete|"
        r"git-lfs|weights were not initialized|[Nn]o \.(?:bin|safetensors)|is not a valid safetensors|PytorchStreamReader",
        explanation="The model's weights are missing, truncated, or only Git LFS pointers.",
        change="copy the checkpoint in `model.path` again (`git lfs pull` in a clone), or pin a complete `model.revision`",
    ),
    Known(
        title="quantization not supported",
        pattern=r"[Uu]nknown quantization|[Qq]uantization method|not supported for quantization|quantization .{0,60}not (?:supported|match)|"
        r"quantization is (?:not|currently not) .{0,20}supported|Cannot find the config file for|Invalid quantization",
        explanation="This quantization is not available on this device or in this version, or the model has another one.",
        change="remove or correct `--quantization` in `server.args`, or serve a checkpoint with a quantization that the device supports",
    ),
    Known(
        title="chat template cannot be used",
        pattern=r"chat template|chat_template|TemplateSyntaxError|jinja2\.exceptions",
        explanation="The chat template does not exist in the image, or is not valid.",
        change="correct `--chat-template` in `server.args`: the path in the image, where `image.overlays` puts the file",
    ),
    Known(
        title="unknown parser",
        pattern=r"invalid (?:tool call|reasoning) parser|(?:tool|reasoning) parser .{0,80}(?:not found|not registered|not exist)",
        explanation="This version of vLLM has no parser of that name.",
        change="correct `--tool-call-parser` or `--reasoning-parser` in `server.args`; the message lists the names",
    ),
    Known(
        title="LoRA adapter cannot be loaded",
        pattern=r"LoRA|lora adapter|adapter_config\.json",
        explanation="An adapter named in `--lora-modules` cannot be loaded for this model.",
        change="correct `--lora-modules`, `--max-lora-rank` or the adapter's path in `server.args`",
    ),
    # --- the image
    Known(
        title="shared library missing",
        pattern=r"cannot open shared object file|undefined symbol|version `?GLIBC\w*_?[\d.]+'? not found|ImportError: lib",
        explanation="Compiled code needs a library that the image does not have, or has in another version.",
        change="add the library to the image's Debian packages, or correct the versions in its lock (vllm-ci lock); the unit "
        "stage names the file",
    ),
    Known(
        title="Python module missing",
        pattern=r"ModuleNotFoundError|No module named|ImportError: cannot import name",
        explanation="The image lacks a Python package, has another version of it, or a plugin's path is wrong.",
        change="add the package to the image's requirements and lock (vllm-ci lock), or correct the name in `server.args` or "
        "`PYTHONPATH` in `image.env`",
    ),
    Known(
        title="file not found",
        pattern=r"FileNotFoundError|\[Errno 2\]|No such file or directory",
        explanation="A file that the server was given does not exist; paths in `server.args` are paths in the image.",
        change="correct the path in `server.args`, or add the file to the image with `image.overlays`",
    ),
    Known(
        title="permission denied",
        pattern=r"PermissionError|\[Errno 13\]|[Pp]ermission denied|Read-only file system|\[Errno 30\]",
        explanation="The server may not read or write that path; an image's own files are read-only.",
        change="correct the permissions of the path, or set a writable folder (`TMPDIR`, `HF_HOME` or "
        "`VLLM_CACHE_ROOT` in `server.env`)",
    ),
    Known(
        title="too many open files",
        pattern=r"Too many open files|\[Errno 24\]",
        explanation="This user's limit of open files is too low.",
        change="raise it before you start vllm-ci: ulimit -n 65535",
    ),
    Known(
        title="invalid configuration of vLLM",
        pattern=r"validation errors? for |ValidationError",
        explanation="vLLM does not accept a value in its configuration.",
        change="correct the flag in `server.args` that the message names",
    ),
    Known(
        title="crash in compiled code",
        pattern=r"Segmentation fault|exit code:? (?:-11|139)\b|[Ff]ailed core proc\(s\):.{0,80}: -(?:11|6)\b|SIGSEGV|SIGABRT",
        explanation="Compiled code of the server crashed; the usual reason is a compiled package with an incompatible version.",
        change='set `PYTHONFAULTHANDLER: "1"` in `server.env` to see where, and compare the image\'s lock with one that works',
    ),
)
