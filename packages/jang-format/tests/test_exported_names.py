"""The public names of jang_format: a change here is a change for users."""

import jang_format


def test_the_public_names_are_these_and_all_exist() -> None:
    assert sorted(jang_format.__all__) == NAMES
    for name in jang_format.__all__:
        assert getattr(jang_format, name) is not None


NAMES = [
    "BIT_WIDTHS",
    "BLOCK_LAYOUT",
    "BLOCK_SIZE",
    "DIGESTS_FILE",
    "DirectoryError",
    "DirectoryWriter",
    "GROUP_SIZES",
    "InvalidFileError",
    "InvalidTensorError",
    "JangFormatError",
    "LAYOUTS",
    "Layout",
    "LayoutName",
    "MANIFEST_FILE",
    "MLX_LAYOUT",
    "MissingFileError",
    "ModelDirectory",
    "OutputError",
    "PARTIAL_SUFFIX",
    "Provenance",
    "QuantizedModule",
    "QuantizedTensor",
    "STORAGE",
    "StoredTensor",
    "Summary",
    "SummaryRow",
    "TensorSpec",
    "UnsupportedVersionError",
    "__version__",
    "assemble",
    "assemble_blocks",
    "block_arrays",
    "block_offsets",
    "block_specs",
    "decode_floats",
    "dequantize",
    "directory_digest",
    "encode_floats",
    "fits_f16",
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
    "refuse_existing",
    "summarize",
    "unpack_codes",
]
