"""``python -m vllm_ci`` is ``vllm-ci``."""

from vllm_ci.cli import main

main()
