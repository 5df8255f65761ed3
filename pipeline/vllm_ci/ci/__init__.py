"""CI providers: which one runs this, and what it says of the run."""
