"""Parts of conversion_speed.py."""
