"""The commands of `jang-eval`, one module each; `cli` mounts them."""
