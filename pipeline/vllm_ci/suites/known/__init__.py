"""What is known of released versions of an engine: one YAML file for each finding, read by :mod:`vllm_ci.suites.known.catalogue`."""
