"""The JANG file format: read, write and inspect directories, without MLX."""

from jang_format._dtypes import STORAGE, decode_floats, encode_floats, fits_f16
from jang_format._errors import (
    InvalidFileError,
    InvalidTensorError,
    JangFormatError,
    MissingFileError,
    OutputError,
    UnsupportedVersionError,
)
from jang_format._manifest import (
    MANIFEST_FILE,
    Provenance,
    QuantizedModule,
    manifest,
    quantization_config,
)
from jang_format._packing import BIT_WIDTHS, pack_codes, unpack_codes
from jang_format._quantized import (
    GROUP_SIZES,
    QuantizedTensor,
    assemble,
    dequantize,
    quantized_bytes,
)
from jang_format._reader import ModelDirectory, read_directory, read_json
from jang_format._safetensors import StoredTensor, TensorSpec, read_header
from jang_format._summary import Summary, SummaryRow, summarize
from jang_format._writer import PARTIAL_SUFFIX, DirectoryWriter, open_writer, refuse_existing

__version__ = "0.1.0"

__all__ = [
    "BIT_WIDTHS",
    "GROUP_SIZES",
    "MANIFEST_FILE",
    "PARTIAL_SUFFIX",
    "STORAGE",
    "DirectoryWriter",
    "InvalidFileError",
    "InvalidTensorError",
    "JangFormatError",
    "MissingFileError",
    "ModelDirectory",
    "OutputError",
    "Provenance",
    "QuantizedModule",
    "QuantizedTensor",
    "StoredTensor",
    "Summary",
    "SummaryRow",
    "TensorSpec",
    "UnsupportedVersionError",
    "__version__",
    "assemble",
    "decode_floats",
    "dequantize",
    "encode_floats",
    "fits_f16",
    "manifest",
    "open_writer",
    "pack_codes",
    "quantization_config",
    "quantized_bytes",
    "read_directory",
    "read_header",
    "read_json",
    "refuse_existing",
    "summarize",
    "unpack_codes",
]
