"""Parts of service_load.py and service_speed.py."""
