"""``vllm-ci.yaml``, parsed and validated here and nowhere else."""
