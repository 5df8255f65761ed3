"""What the stages run: pytest packages and the plugin they share; they need a URL and nothing else."""
