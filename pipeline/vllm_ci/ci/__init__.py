"""CI providers: detects the provider and reads its variables."""
