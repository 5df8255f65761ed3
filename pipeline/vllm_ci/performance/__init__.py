"""Performance as a stage: workloads, measurements, and comparisons with known error rates."""
