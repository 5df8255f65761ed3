"""Signals of a channel that serves: alerting rules and a dashboard made of them, and comparisons around a release."""
