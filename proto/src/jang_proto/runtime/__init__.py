"""The runtime API, by version."""
