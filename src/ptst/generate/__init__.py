"""Completions of a model behind an API."""
