"""The gRPC service: what stands between the network and an engine."""
