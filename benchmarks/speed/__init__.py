"""Parts of runtime_speed.py and gpu_speed.py."""
