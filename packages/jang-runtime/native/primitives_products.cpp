// Linear layers, expert layers and embeddings over packed matrices.
#include <numeric>
#include <stdexcept>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "primitives.h"
#include "products.h"
#include "threads.h"

namespace jang {

namespace {

FloatType float_type(const std::string& name, const mx::array& x) {
  if (x.dtype() == mx::float16) return FloatType::f16;
  if (x.dtype() == mx::bfloat16) return FloatType::bf16;
  expect(x.dtype() == mx::float32, name, x, "float32, float16 or bfloat16");
  return FloatType::f32;
}

const uint8_t* bytes(const mx::array& x) {
  if (!x.flags().row_contiguous) throw std::invalid_argument("a matrix's arrays must be contiguous");
  return x.data<uint8_t>();
}

// The matrix of evaluated arrays; `arrays` stay the owner of its memory.
Matrix view(const StoredMatrix& stored, const mx::array* arrays) {
  Matrix matrix;
  matrix.layout = stored.layout;
  matrix.rows = stored.rows;
  matrix.columns = stored.columns;
  matrix.bits = stored.bits;
  matrix.group_size = stored.group_size;
  matrix.codes = bytes(arrays[0]);
  matrix.codes_end = matrix.codes + arrays[0].nbytes();
  if (stored.layout == Layout::floats) {
    matrix.type = float_type("weight", arrays[0]);
    return matrix;
  }
  matrix.type = float_type("scales", arrays[1]);
  matrix.scales = bytes(arrays[1]);
  matrix.biases = bytes(arrays[2]);
  if (stored.layout == Layout::blocks) {
    matrix.bit_map = bytes(arrays[3]);
    matrix.block_offsets = reinterpret_cast<const uint32_t*>(bytes(arrays[4]));
    matrix.firsts = reinterpret_cast<const uint64_t*>(bytes(arrays[5]));
  }
  return matrix;
}

// The form of a stored matrix, without its arrays: those are the primitive's inputs.
StoredMatrix form_of(const StoredMatrix& stored) {
  StoredMatrix form = stored;
  form.arrays.clear();
  return form;
}

class Product : public CpuPrimitive {
 public:
  Product(mx::Stream stream, const StoredMatrix& form) : CpuPrimitive(stream), form_(form) {}

 protected:
  // Inputs are x, the matrix's arrays, and what a derived class adds.
  Matrix matrix(const std::vector<mx::array>& inputs) const { return view(form_, &inputs[1]); }

  template <class Task>
  void dispatch(const std::vector<mx::array>& inputs, mx::array& out, Task task) {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    for (const mx::array& input : inputs) encoder.set_input_array(input);
    encoder.set_output_array(out);
    encoder.dispatch(std::move(task));
  }

  StoredMatrix form_;
};

class Linear : public Product {
 public:
  using Product::Product;
  DEFINE_NAME(JangLinear)

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    const mx::array x = row_contiguous(inputs[0], stream());
    dispatch(inputs, out, [m = matrix(inputs), x = x.data<float>(), out = out.data<float>(),
                           count = static_cast<int64_t>(x.size() / form_.columns)] {
      multiply(first_of(m), x, m.columns, count, out, m.rows);
    });
  }

 private:
  // A single matrix of block layout begins where the first of its stack does.
  static Matrix first_of(const Matrix& m) { return m.layout == Layout::blocks ? nth(m, 0) : m; }
};

class GatherLinear : public Product {
 public:
  GatherLinear(mx::Stream stream, const StoredMatrix& form, int repeat)
      : Product(stream, form), repeat_(repeat) {}
  DEFINE_NAME(JangGatherLinear)

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    const mx::array x = row_contiguous(inputs[0], stream());
    const mx::array indices = row_contiguous(inputs.back(), stream());
    dispatch(inputs, out, [m = matrix(inputs), x = x.data<float>(), repeat = repeat_,
                           indices = indices.data<uint32_t>(),
                           count = static_cast<int64_t>(indices.size()),
                           out = out.data<float>()] {
      multiply_gathered(m, x, repeat, indices, count, out);
    });
  }

 private:
  int repeat_;
};

class MultiLinear : public Product {
 public:
  MultiLinear(mx::Stream stream, const StoredMatrix& form, int matrices)
      : Product(stream, form), matrices_(matrices) {}
  DEFINE_NAME(JangMultiLinear)

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    const mx::array x = row_contiguous(inputs[0], stream());
    dispatch(inputs, out, [m = matrix(inputs), x = x.data<float>(), out = out.data<float>(),
                           count = static_cast<int64_t>(x.size() / form_.columns),
                           length = x.shape(-2), matrices = matrices_] {
      std::vector<uint32_t> indices(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) {
        indices[i] = static_cast<uint32_t>(i / length % matrices);
      }
      multiply_gathered(m, x, 1, indices.data(), count, out);
    });
  }

 private:
  int matrices_;
};

class MultiLinearTransposed : public Product {
 public:
  MultiLinearTransposed(mx::Stream stream, const StoredMatrix& form, int matrices)
      : Product(stream, form), matrices_(matrices) {}
  DEFINE_NAME(JangMultiLinearTransposed)

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    const mx::array x = row_contiguous(inputs[0], stream());
    dispatch(inputs, out, [m = matrix(inputs), x = x.data<float>(), out = out.data<float>(),
                           length = static_cast<int64_t>(x.shape(-2)),
                           count = static_cast<int64_t>(x.size() / form_.rows),
                           matrices = matrices_] {
      if (count == 0) return;
      parallel_for(count / length, [&](int64_t i) {
        multiply_transposed(nth(m, i % matrices), x + i * length * m.rows, length,
                            out + i * length * m.columns);
      });
    });
  }

 private:
  int matrices_;
};

class TakeRows : public Product {
 public:
  using Product::Product;
  DEFINE_NAME(JangTakeRows)

  // Inputs are the rows and the matrix's arrays.
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    const mx::array rows = row_contiguous(inputs[0], stream());
    dispatch(inputs, out, [m = matrix(inputs), rows = rows.data<uint32_t>(),
                           count = static_cast<int64_t>(rows.size()), out = out.data<float>()] {
      take_rows(m, rows, count, out);
    });
  }
};

std::vector<mx::array> inputs_of(const mx::array& x, const StoredMatrix& stored) {
  std::vector<mx::array> inputs{x};
  inputs.insert(inputs.end(), stored.arrays.begin(), stored.arrays.end());
  return inputs;
}

mx::Shape with_last(const mx::array& x, int last) {
  mx::Shape shape = x.shape();
  shape.back() = last;
  return shape;
}

void expect_activations(const mx::array& x, int columns) {
  expect(x.dtype() == mx::float32 && x.ndim() > 0 && x.shape(-1) == columns, "x", x,
         "float32 [..., " + std::to_string(columns) + "]");
}

}  // namespace

StoredMatrix packed_matrix(const mx::array& weight, const mx::array& scales,
                           const mx::array& biases, int group_size, int bits) {
  if (bits < 2 || bits > 8 || bits == 7) {
    throw std::invalid_argument("bits: found " + std::to_string(bits) +
                                ", expected 2, 3, 4, 5, 6 or 8");
  }
  if (group_size <= 0 || group_size % 32 != 0) {
    throw std::invalid_argument("group_size: found " + std::to_string(group_size) +
                                ", expected 32, 64 or 128");
  }
  expect(weight.dtype() == mx::uint32 && weight.ndim() >= 2, "weight", weight, "uint32 matrices");
  expect(scales.ndim() == weight.ndim(), "scales", scales, "as many axes as the weight");
  const int columns = scales.shape(-1) * group_size;
  expect(weight.shape(-1) == columns / 32 * bits && weight.shape(-2) == scales.shape(-2) &&
             weight.size() / weight.shape(-1) == scales.size() / scales.shape(-1),
         "weight", weight, "uint32 [..., rows, columns * bits / 32] that fits the scales");
  expect(biases.shape() == scales.shape() && biases.dtype() == scales.dtype(), "biases", biases,
         "shape and dtype of the scales");
  float_type("scales", scales);
  return {Layout::packed, weight.shape(-2), columns, bits, group_size, {weight, scales, biases}};
}

StoredMatrix block_matrix(const mx::array& qweight, const mx::array& scales,
                          const mx::array& zeros, const mx::array& bit_map,
                          const mx::array& block_offsets, const mx::array& matrix_offsets,
                          int rows, int columns) {
  if (rows <= 0 || columns <= 0) throw std::invalid_argument("rows and columns must be above 0");
  const size_t blocks = matrix_offsets.size() * static_cast<size_t>(rows) *
                        static_cast<size_t>((columns + kBlockSize - 1) / kBlockSize);
  const std::string each = " [" + std::to_string(blocks) + "]";
  expect(qweight.dtype() == mx::uint8, "qweight", qweight, "uint8");
  expect(scales.dtype() == mx::float16 && scales.size() == blocks, "scales", scales,
         "float16" + each);
  expect(zeros.dtype() == mx::float16 && zeros.size() == blocks, "zeros", zeros, "float16" + each);
  expect(bit_map.dtype() == mx::uint8 && bit_map.size() == blocks, "bit_map", bit_map,
         "uint8" + each);
  expect(block_offsets.dtype() == mx::uint32 && block_offsets.size() == blocks, "block_offsets",
         block_offsets, "uint32" + each);
  expect(matrix_offsets.dtype() == mx::uint64, "matrix_offsets", matrix_offsets, "uint64");
  return {Layout::blocks, rows, columns, 0, kBlockSize,
          {qweight, scales, zeros, bit_map, block_offsets, matrix_offsets}};
}

StoredMatrix float_matrix(const mx::array& weight) {
  expect(weight.ndim() >= 2, "weight", weight, "matrices");
  float_type("weight", weight);
  return {Layout::floats, weight.shape(-2), weight.shape(-1), 0, 0, {weight}};
}

mx::array linear(const mx::array& x, const StoredMatrix& matrix) {
  expect_activations(x, matrix.columns);
  const mx::Stream stream = cpu_stream();
  return mx::array(with_last(x, matrix.rows), mx::float32,
                   std::make_shared<Linear>(stream, form_of(matrix)), inputs_of(x, matrix));
}

mx::array gather_linear(const mx::array& x, const StoredMatrix& stack, const mx::array& indices) {
  expect_activations(x, stack.columns);
  const mx::Stream stream = cpu_stream();
  const mx::array wanted = mx::astype(indices, mx::uint32, stream);
  const auto count = static_cast<int64_t>(wanted.size());
  expect(x.ndim() == 2 && (x.shape(0) == 0 ? count == 0 : count % x.shape(0) == 0), "x", x,
         "float32 [rows, columns], each row for as many of the " + std::to_string(count) +
             " indices");
  const int repeat = count == 0 ? 1 : static_cast<int>(count / x.shape(0));
  auto inputs = inputs_of(x, stack);
  inputs.push_back(wanted);
  return mx::array({static_cast<int>(count), stack.rows}, mx::float32,
                   std::make_shared<GatherLinear>(stream, form_of(stack), repeat),
                   std::move(inputs));
}

mx::array multi_linear(const mx::array& x, const StoredMatrix& stack, int matrices,
                       bool transposed) {
  expect_activations(x, transposed ? stack.rows : stack.columns);
  expect(x.ndim() >= 3 && x.shape(-3) == matrices, "x", x,
         "float32 [..., " + std::to_string(matrices) + ", length, columns]");
  const mx::Stream stream = cpu_stream();
  if (transposed) {
    return mx::array(with_last(x, stack.columns), mx::float32,
                     std::make_shared<MultiLinearTransposed>(stream, form_of(stack), matrices),
                     inputs_of(x, stack));
  }
  return mx::array(with_last(x, stack.rows), mx::float32,
                   std::make_shared<MultiLinear>(stream, form_of(stack), matrices),
                   inputs_of(x, stack));
}

mx::array take(const StoredMatrix& stack, const mx::array& rows) {
  const mx::Stream stream = cpu_stream();
  mx::Shape shape = rows.shape();
  shape.push_back(stack.columns);
  return mx::array(std::move(shape), mx::float32,
                   std::make_shared<TakeRows>(stream, form_of(stack)),
                   inputs_of(mx::astype(rows, mx::uint32, stream), stack));
}

}  // namespace jang
