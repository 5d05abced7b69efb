"""The whole protocol for one model: what `jang-eval report` runs."""
