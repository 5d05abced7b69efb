"""The JANG file format: read, write and inspect directories, without MLX."""

from jang_format._block_layout import (
    BLOCK_SIZE,
    assemble_blocks,
    block_arrays,
    block_offsets,
    block_specs,
)
from jang_format._convert import LayoutConversion, Progress, convert_layout
from jang_format._diff import Difference, diff
from jang_format._digests import DIGESTS_FILE, directory_digest
from jang_format._dtypes import STORAGE, decode_floats, encode_floats
from jang_format._errors import (
    DirectoryError,
    InvalidFileError,
    InvalidTensorError,
    JangFormatError,
    MissingFileError,
    OutputError,
    UnsupportedVersionError,
    first_line,
)
from jang_format._files import read_json
from jang_format._json import section
from jang_format._layouts import BLOCK_LAYOUT, LAYOUTS, MLX_LAYOUT, Layout, LayoutName
from jang_format._manifest import (
    MANIFEST_FILE,
    Provenance,
    QuantizedModule,
    manifest,
    quantization_config,
)
from jang_format._matrices import Matrices, count_matrices
from jang_format._mlx_layout import mlx_arrays, mlx_specs
from jang_format._packing import BIT_WIDTHS, pack_codes, unpack_codes
from jang_format._plot import check_picture, draw
from jang_format._quantized import (
    GROUP_SIZES,
    QuantizedTensor,
    assemble,
    assemble_packed,
    dequantize,
    quantized_bytes,
)
from jang_format._reader import ModelDirectory, read_directory
from jang_format._relayout import to_blocks
from jang_format._safetensors import (
    StoredTensor,
    TensorSpec,
    WeightFile,
    read_header,
    read_weight_file,
)
from jang_format._sizes import text_size
from jang_format._summary import Summary, SummaryModule, SummaryRow, summarize, summary_of
from jang_format._tensor_file import write_tensor_file
from jang_format._validate import Problem, Validation, validate
from jang_format._version import __version__
from jang_format._whole_file import PARTIAL_SUFFIX, write_whole
from jang_format._writer import (
    DirectoryWriter,
    open_writer,
    refuse_existing,
    weight_bytes_of,
)

__all__ = [
    "BIT_WIDTHS",
    "BLOCK_LAYOUT",
    "BLOCK_SIZE",
    "DIGESTS_FILE",
    "GROUP_SIZES",
    "LAYOUTS",
    "MANIFEST_FILE",
    "MLX_LAYOUT",
    "PARTIAL_SUFFIX",
    "STORAGE",
    "Difference",
    "DirectoryError",
    "DirectoryWriter",
    "InvalidFileError",
    "InvalidTensorError",
    "JangFormatError",
    "Layout",
    "LayoutConversion",
    "LayoutName",
    "Matrices",
    "MissingFileError",
    "ModelDirectory",
    "OutputError",
    "Problem",
    "Progress",
    "Provenance",
    "QuantizedModule",
    "QuantizedTensor",
    "StoredTensor",
    "Summary",
    "SummaryModule",
    "SummaryRow",
    "TensorSpec",
    "UnsupportedVersionError",
    "Validation",
    "WeightFile",
    "__version__",
    "assemble",
    "assemble_blocks",
    "assemble_packed",
    "block_arrays",
    "block_offsets",
    "block_specs",
    "check_picture",
    "convert_layout",
    "count_matrices",
    "decode_floats",
    "dequantize",
    "diff",
    "directory_digest",
    "draw",
    "encode_floats",
    "first_line",
    "manifest",
    "mlx_arrays",
    "mlx_specs",
    "open_writer",
    "pack_codes",
    "quantization_config",
    "quantized_bytes",
    "read_directory",
    "read_header",
    "read_json",
    "read_weight_file",
    "refuse_existing",
    "section",
    "summarize",
    "summary_of",
    "text_size",
    "to_blocks",
    "unpack_codes",
    "validate",
    "weight_bytes_of",
    "write_tensor_file",
    "write_whole",
]
