"""`jang.runtime.v1`: messages in `runtime_pb2`, stubs and servicer in `runtime_pb2_grpc`."""

from jang_proto.runtime.v1 import runtime_pb2, runtime_pb2_grpc

__all__ = ["runtime_pb2", "runtime_pb2_grpc"]
