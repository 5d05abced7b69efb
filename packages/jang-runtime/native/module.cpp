// The Python module `jang_cpu`. jang_runtime._native describes and loads it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "kernels.h"
#include "mapping.h"
#include "mlx/mlx.h"
#include "primitives.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;
using mlx::core::array;

namespace {

mlx::core::Dtype dtype_named(const std::string& name) {
  if (name == "F32") return mlx::core::float32;
  if (name == "F16") return mlx::core::float16;
  if (name == "BF16") return mlx::core::bfloat16;
  if (name == "U32") return mlx::core::uint32;
  if (name == "I32") return mlx::core::int32;
  if (name == "U16") return mlx::core::uint16;
  if (name == "I16") return mlx::core::int16;
  if (name == "U8") return mlx::core::uint8;
  if (name == "I8") return mlx::core::int8;
  if (name == "U64") return mlx::core::uint64;
  if (name == "I64") return mlx::core::int64;
  if (name == "F64") return mlx::core::float64;
  if (name == "BOOL") return mlx::core::bool_;
  throw std::invalid_argument("dtype: found " + name + ", expected one of safetensors'");
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const jang::Kernels* one : jang::available_kernels()) names.emplace_back(one->name);
  return names;
}

void bind_products(nb::module_& m) {
  m.def("packed_linear",
        [](const array& x, const array& weight, const array& scales, const array& biases,
           int group_size, int bits) {
          return jang::linear(x, jang::packed_matrix(weight, scales, biases, group_size, bits));
        });
  m.def("packed_gather_linear",
        [](const array& x, const array& weight, const array& scales, const array& biases,
           const array& indices, int group_size, int bits) {
          return jang::gather_linear(
              x, jang::packed_matrix(weight, scales, biases, group_size, bits), indices);
        });
  m.def("packed_multi_linear",
        [](const array& x, const array& weight, const array& scales, const array& biases,
           int group_size, int bits, bool transposed) {
          return jang::multi_linear(
              x, jang::packed_matrix(weight, scales, biases, group_size, bits), weight.shape(0),
              transposed);
        });
  m.def("packed_rows",
        [](const array& weight, const array& scales, const array& biases, const array& rows,
           int group_size, int bits) {
          return jang::take(jang::packed_matrix(weight, scales, biases, group_size, bits), rows);
        });
  m.def("float_linear",
        [](const array& x, const array& weight) {
          return jang::linear(x, jang::float_matrix(weight));
        });
  m.def("float_rows", [](const array& weight, const array& rows) {
    return jang::take(jang::float_matrix(weight), rows);
  });
  m.def("block_linear",
        [](const array& x, const array& qweight, const array& scales, const array& zeros,
           const array& bit_map, const array& block_offsets, const array& matrix_offsets, int rows,
           int columns) {
          return jang::linear(x, jang::block_matrix(qweight, scales, zeros, bit_map, block_offsets,
                                                    matrix_offsets, rows, columns));
        });
  m.def("block_gather_linear",
        [](const array& x, const array& qweight, const array& scales, const array& zeros,
           const array& bit_map, const array& block_offsets, const array& matrix_offsets, int rows,
           int columns, const array& indices) {
          return jang::gather_linear(
              x,
              jang::block_matrix(qweight, scales, zeros, bit_map, block_offsets, matrix_offsets,
                                 rows, columns),
              indices);
        });
  m.def("block_rows",
        [](const array& qweight, const array& scales, const array& zeros, const array& bit_map,
           const array& block_offsets, const array& matrix_offsets, int rows, int columns,
           const array& wanted) {
          return jang::take(jang::block_matrix(qweight, scales, zeros, bit_map, block_offsets,
                                               matrix_offsets, rows, columns),
                            wanted);
        });
}

void bind_functions(nb::module_& m) {
  m.def("rms_norm", &jang::rms_norm, "x"_a, "weight"_a.none(), "eps"_a);
  m.def("rope", &jang::rope, "x"_a, "dimensions"_a, "traditional"_a, "base"_a.none(), "scale"_a,
        "offset"_a, "frequencies"_a.none());
  m.def("attention", &jang::attention, "queries"_a, "keys"_a, "values"_a, "scale"_a, "causal"_a,
        "mask"_a.none(), "sinks"_a.none());
  m.def("softmax", &jang::softmax, "x"_a);
  m.def("silu", &jang::silu, "x"_a);
  m.def("swiglu", &jang::swiglu, "gate"_a, "up"_a);
}

}  // namespace

NB_MODULE(jang_cpu, m) {
  // What the extension was compiled against: MLX's classes change between releases.
  m.attr("mlx_version") = std::to_string(MLX_VERSION_MAJOR) + "." +
                          std::to_string(MLX_VERSION_MINOR) + "." +
                          std::to_string(MLX_VERSION_PATCH);
  // Arrays are MLX's own Python objects; its module has to be there first.
  nb::module_::import_("mlx.core");
  bind_products(m);
  bind_functions(m);
  nb::class_<jang::MappedFile>(m, "MappedFile")
      .def("tensor", [](jang::MappedFile& file, uint64_t begin, const std::vector<int>& shape,
                        const std::string& dtype) {
        return file.tensor(begin, mlx::core::Shape(shape.begin(), shape.end()),
                           dtype_named(dtype));
      });
  m.def("open_file",
        [](const std::string& path) { return std::make_shared<jang::MappedFile>(path); });
  m.def("kernel_names", &kernel_names);
  m.def("kernels_in_use", [] { return std::string(jang::kernels().name); });
  m.def("use_kernels", &jang::use_kernels);
  m.def("thread_count", &jang::thread_count);
  m.def("set_thread_count", &jang::set_thread_count);
}
