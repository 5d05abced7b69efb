"""The gRPC API of JANG: generated stubs, one package per API version.

`from jang_proto.runtime.v1 import runtime_pb2, runtime_pb2_grpc`
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
