"""Known reasons for which vLLM does not start: what its message looks like, what it means, and what to change.

Data only. Patterns are regular expressions, tried in this order, against an exception with its message (or against a line of
the log, where there is no exception). They are kept short: versions of vLLM phrase the same reason differently. Named groups
of a pattern can stand in the texts as ``{name}``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Known:
    """A known reason.

    Attributes:
        title: A few words, for the table in the documentation.
        pattern: What the message looks like.
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
        explanation="vLLM refuses the value that this flag was given.",
        change="correct it in `server.args`; the message names the flag and, where it knows them, the values it takes",
    ),
    Known(
        title="max_model_len beyond what the model supports",
        pattern=r"max_model_len.{0,40}is greater than the (?:derived|maximum|model)",
        explanation="The context length asked for is longer than the model was made for.",
        change=f"lower {_LENGTH} to the model's own maximum, or leave it out",
    ),
    Known(
        title="max_num_batched_tokens too small",
        pattern=r"max_num_batched_tokens.{0,40}(?:is )?smaller than max_(?:model_len|num_seqs)|max_num_batched_tokens .{0,60}must be "
        r"greater",
        explanation="One step of the scheduler must be able to hold a whole prompt (or one token of each sequence).",
        change=f"raise `--max-num-batched-tokens` or lower {_LENGTH} or `--max-num-seqs` there",
    ),
    # --- memory
    Known(
        title="KV cache too small for max_model_len",
        pattern=r"estimated maximum model length is (?P<length>\d+)",
        explanation="The memory for the KV cache does not hold one request of the longest allowed length.",
        change=f"set {_LENGTH} to at most {{length}}, or raise `--kv-cache-memory-bytes` or `--gpu-memory-utilization` there",
    ),
    Known(
        title="KV cache too small for max_model_len",
        pattern=r"To serve at least one request|larger than the (?:maximum number of tokens that can be stored in|available) KV cache",
        explanation="The memory for the KV cache does not hold one request of the longest allowed length.",
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
        explanation="Another program holds memory of this GPU, so that vLLM's share of it is not free.",
        change="stop the other program (`nvidia-smi` shows it), choose another device with `server.gpus`, or lower "
        "`--gpu-memory-utilization` in `server.args`",
    ),
    Known(
        title="GPU out of memory",
        pattern=r"(?:CUDA|HIP|XPU) out of memory|OutOfMemoryError|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        explanation="The GPU's memory does not hold the model and its working memory.",
        change="lower `--max-model-len`, `--max-num-seqs` or `--gpu-memory-utilization` in `server.args`, spread the model over "
        "several devices (`--tensor-parallel-size` with `server.gpus`), or serve a smaller or quantized model",
    ),
    Known(
        title="not enough memory on a CPU server",
        pattern=r"Available memory on node|Memory on node .{0,120}(?:less than|exceed)|"
        r"[Nn]ot enough (?:available )?memory .{0,60}(?:KV|kv) ?cache|VLLM_CPU_KVCACHE_SPACE.{0,80}(?:too large|exceed)|"
        r"memory .{0,80}less than (?:desired|requested) (?:CPU )?memory",
        explanation="The server's share of the machine's memory (for the KV cache above all) is not free.",
        change="set a smaller `--kv-cache-memory-bytes` (or `--gpu-memory-utilization`, which counts for CPUs as well) in "
        "`server.args`, a smaller `VLLM_CPU_KVCACHE_SPACE` in `server.env`, or stop other programs",
    ),
    Known(
        title="out of memory",
        pattern=r"MemoryError|std::bad_alloc|DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|\[Errno 12\]",
        explanation="The operating system gave the server no more memory.",
        change="lower `--kv-cache-memory-bytes` and `--max-num-seqs` in `server.args`, serve a smaller model, or run on a machine "
        "(or with a container limit) that has more memory",
    ),
    Known(
        title="ended by SIGKILL",
        pattern=r"[Ff]ailed core proc\(s\):.{0,80}: -9\b|died unexpectedly \(exit code: -9\)|\bexit code:? (?:-9|137)\b|SIGKILL|"
        r"^Killed$|exitcode[=:] ?-9\b",
        explanation="A process of the server was killed from outside; nearly always that is the kernel's out-of-memory killer, or a "
        "container's memory limit.",
        change="lower `--kv-cache-memory-bytes` (or `--gpu-memory-utilization`) and `--max-num-seqs` in `server.args`, serve a "
        "smaller model, or give the machine or container more memory; `dmesg` or `kubectl describe pod` shows the kill",
    ),
    Known(
        title="shared memory too small",
        pattern=r"/dev/shm|[Ii]nsufficient shared memory|shm.{0,40}(?:No space left|too small)|Bus error|exit code:? (?:-7|135)\b|"
        r"[Ff]ailed core proc\(s\):.{0,80}: -7\b",
        explanation="Processes of the server exchange data through /dev/shm, and it is too small (containers give 64 MiB).",
        change="raise `server.shm_mib` (tensor parallelism wants 1024 or more)",
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
        explanation="Another program listens on the port that the server wants.",
        change="stop that program, or set another `server.port` (0 takes any free one); remove `--port` from `server.args` if it is "
        "there",
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
        explanation="The server was told to listen on an address that this machine does not have.",
        change="remove `--host` from `server.args`: the address to listen on is chosen by the engine",
    ),
    # --- devices
    Known(
        title="no CUDA driver or library",
        pattern=r"libcuda\.so|libcudart\.so|libnvidia-ml|NVIDIA driver|no NVIDIA GPU|No CUDA GPUs are available|"
        r"CUDA driver version is insufficient|no CUDA-capable device|NVML (?:Shared )?[Ll]ibrary|CUDA initialization",
        explanation="This image is made for NVIDIA GPUs, and no GPU or no suitable driver is visible to the server.",
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
        title="more devices asked for than there are",
        pattern=r"[Ww]orld size .{0,60}(?:larger than|exceed)|invalid device ordinal|[Tt]ensor parallel size.{0,80}exceed|"
        r"local_rank .{0,40}(?:out of bounds|exceed)|Not enough (?:allowed NUMA|total available) nodes|"
        r"NUMA nodes?.{0,80}(?:less than|not enough)|number of required .{0,20}s exceeds",
        explanation="Tensor or pipeline parallelism asks for more devices (on CPUs: NUMA nodes) than the server sees.",
        change="lower `--tensor-parallel-size` in `server.args`, or hand over more devices with `server.gpus`",
    ),
    Known(
        title="tensor parallel size does not divide the model",
        pattern=r"must be divisible by (?:the )?tensor.?parallel|is not divisible by|must be divisible by tp",
        explanation="The model's heads (or other dimensions) cannot be split evenly by that number.",
        change="set `--tensor-parallel-size` in `server.args` to a divisor of the number the message names",
    ),
    Known(
        title="NCCL failed",
        pattern=r"NCCL (?:error|WARN)|ncclSystemError|ncclInternalError|unhandled (?:system|cuda) error|ProcessGroupNCCL",
        explanation="The processes on the GPUs could not connect to each other.",
        change="raise `server.shm_mib`, and set `NCCL_DEBUG: INFO` in `server.env` to see in the log what NCCL lacks",
    ),
    Known(
        title="bfloat16 unsupported by the GPU",
        pattern=r"[Bb]float16 is only supported on GPUs",
        explanation="This GPU is too old for bfloat16, the data type of most models.",
        change="add `--dtype=half` to `server.args`",
    ),
    Known(
        title="GPU too old for what is asked",
        pattern=r"[Cc]ompute [Cc]apability|no kernel image is available|Minimum capability",
        explanation="This GPU's generation (compute capability) lacks what the model or its quantization needs.",
        change="serve a model with another quantization or data type (`--quantization`, `--dtype` in `server.args`), or use a newer GPU",
    ),
    Known(
        title="instruction unknown to this CPU",
        pattern=r"[Ii]llegal instruction|SIGILL|exit code:? (?:-4|132)\b|[Ff]ailed core proc\(s\):.{0,80}: -4\b|AVX",
        explanation="vLLM for CPUs was compiled for instructions (AVX2 or AVX-512) that this processor does not have.",
        change="run on a newer processor, or use a build of vLLM for this one in the image's lock",
    ),
    # --- model
    Known(
        title="trust_remote_code needed",
        pattern=r"trust_remote_code|trust-remote-code|requires you to execute the",
        explanation="The model brings Python code of its own, which vLLM runs only when told to trust it.",
        change="read that code, then add `--trust-remote-code` to `server.args`",
    ),
    Known(
        title="gated model",
        pattern=r"GatedRepoError|gated repo|Access to model .{0,120}restricted|401 Client Error|403 Client Error|"
        r"Invalid (?:user )?(?:token|username or password)",
        explanation="The model hub gives this model only to users who were granted access.",
        change="ask for access on the model's page, export a token as HF_TOKEN, and add `HF_TOKEN` to `server.secrets`",
    ),
    Known(
        title="tokenizer missing",
        pattern=r"Can't load tokenizer|[Tt]okenizer.{0,60}(?:not found|does not exist|is missing|cannot be found)|Couldn't instantiate the "
        r"backend tokenizer|Unable to load vocabulary|No tokenizer (?:file )?found|[Ff]ailed to load the tokenizer|"
        r"tokenizer\.model\b.{0,60}not",
        explanation="The model's folder has no tokenizer, or one that cannot be read.",
        change="put the tokenizer's files (tokenizer.json, tokenizer_config.json) into `model.path`, or name another one with "
        "`--tokenizer` in `server.args`",
    ),
    Known(
        title="model hub out of reach or offline",
        pattern=r"outgoing traffic has been disabled|OfflineModeIsEnabled|couldn't connect to|LocalEntryNotFoundError|"
        r"cannot find the requested files in the (?:disk|local) cache|huggingface\.co.{0,160}(?:resolve|timed out|refused|unreachable|"
        r"Max retries)|Cannot reach https?://|Temporary failure in name resolution",
        explanation="The model is not on this machine, and the model hub cannot be reached from it (or was switched off by "
        "`HF_HUB_OFFLINE`).",
        change="serve a checkpoint from a folder with `model.path`, or take `HF_HUB_OFFLINE` and `TRANSFORMERS_OFFLINE` out of "
        "`server.env` and allow the connection (a mirror: `HF_ENDPOINT` there)",
    ),
    Known(
        title="model not found",
        pattern=r"Invalid repository ID or local directory|Repo id must|RepositoryNotFoundError|RevisionNotFoundError|"
        r"is not a (?:local folder|valid model identifier)|does not appear to have a file named|404 Client Error|"
        r"Unrecognized model in|No such file or directory: .{0,200}config\.json|model path .{0,120}(?:not exist|not found)",
        explanation="There is no model under that name or in that folder, or its config.json is missing.",
        change="correct `model.path` (a folder with config.json and weights) or `model.name` and `model.revision`; remove `--model` "
        "from `server.args` if it is there",
    ),
    Known(
        title="unknown model type",
        pattern=r"does not recognize this architecture|Unrecognized configuration class|[Mm]odel type .{0,80}not (?:recognized|supported)",
        explanation="The transformers library in the image does not know this type of model: the model is newer than the image.",
        change="raise vllm and transformers in the image's lock (vllm-ci lock), or correct `model_type` in the model's config.json",
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
        explanation="The model's weights are missing, cut short, or only pointers of Git LFS.",
        change="copy the checkpoint in `model.path` again (`git lfs pull` in a clone), or pin a complete `model.revision`",
    ),
    Known(
        title="quantization not supported",
        pattern=r"[Uu]nknown quantization|[Qq]uantization method|not supported for quantization|quantization .{0,60}not (?:supported|match)|"
        r"quantization is (?:not|currently not) .{0,20}supported|Cannot find the config file for|Invalid quantization",
        explanation="This quantization is not available on this device or in this version, or is not that of the model.",
        change="remove or correct `--quantization` in `server.args`, or serve a checkpoint with a quantization that the device supports",
    ),
    Known(
        title="chat template cannot be used",
        pattern=r"chat template|chat_template|TemplateSyntaxError|jinja2\.exceptions",
        explanation="The chat template does not exist in the image, or is not valid.",
        change="correct `--chat-template` in `server.args`: a path inside the image, where `image.overlays` put the file",
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
        explanation="A compiled part needs a library that the image does not have, or has in another version.",
        change="install the library with the image's Debian packages, or correct the versions in its lock (vllm-ci lock); the unit "
        "stage shows which file it is",
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
        explanation="The server was told of a file that is not there; paths in `server.args` are those inside the image.",
        change="correct the path in `server.args`, or bring the file into the image with `image.overlays`",
    ),
    Known(
        title="permission denied",
        pattern=r"PermissionError|\[Errno 13\]|[Pp]ermission denied|Read-only file system|\[Errno 30\]",
        explanation="The server may not read or write that path; an image's own files are read-only.",
        change="correct the permissions of the path, or point the server to a folder it may write to (`TMPDIR`, `HF_HOME` or "
        "`VLLM_CACHE_ROOT` in `server.env`)",
    ),
    Known(
        title="too many open files",
        pattern=r"Too many open files|\[Errno 24\]",
        explanation="The limit of open files of this user is too low.",
        change="raise it before the call: ulimit -n 65535",
    ),
    Known(
        title="invalid configuration of vLLM",
        pattern=r"validation errors? for |ValidationError",
        explanation="vLLM refuses a value that it was configured with.",
        change="correct the flag in `server.args` that the message is about",
    ),
    Known(
        title="crash in compiled code",
        pattern=r"Segmentation fault|exit code:? (?:-11|139)\b|[Ff]ailed core proc\(s\):.{0,80}: -(?:11|6)\b|SIGSEGV|SIGABRT",
        explanation="A compiled part of the server crashed; a version of a compiled package that does not fit is the usual reason.",
        change='set `PYTHONFAULTHANDLER: "1"` in `server.env` to see where, and compare the image\'s lock with one that works',
    ),
)
