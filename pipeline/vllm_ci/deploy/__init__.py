"""Live traffic: plans of a deployment, what decides about each step, and the driver that carries a plan out."""
