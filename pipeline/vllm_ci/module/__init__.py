"""The Dagger module: the commands of vllm-ci as objects and functions."""
