"""Sources of models: Hugging Face directories, hub ids, GGUF files."""
