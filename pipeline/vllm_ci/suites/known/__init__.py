"""What is known of released versions of an engine: a YAML file for each finding (:mod:`vllm_ci.suites.known.catalogue`)."""
