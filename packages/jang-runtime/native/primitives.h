// The kernels as operations of an MLX graph, on its CPU streams.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "matrix.h"
#include "mlx/array.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"

namespace jang {

namespace mx = mlx::core;

// An operation that only CPU streams have.
class CpuPrimitive : public mx::Primitive {
 public:
  using mx::Primitive::Primitive;
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override;
};

mx::Stream cpu_stream();
void allocate(mx::array& out);
// `x` if its elements lie in order, else an array into which a task of the stream copies them.
mx::array row_contiguous(const mx::array& x, mx::Stream stream);
// Raises ValueError in Python: "name: found ..., expected ...".
void expect(bool holds, const std::string& name, const mx::array& found, const std::string& wanted);

// A matrix or a stack of them, as arrays.
struct StoredMatrix {
  Layout layout;
  int rows;
  int columns;
  int bits;
  int group_size;
  std::vector<mx::array> arrays;
};

// weight uint32 [..., rows, columns * bits / 32], scales and biases [..., rows, columns / group_size].
StoredMatrix packed_matrix(const mx::array& weight, const mx::array& scales,
                           const mx::array& biases, int group_size, int bits);
// The arrays of block layout (FORMAT.md); `matrix_offsets` uint64 [matrices].
StoredMatrix block_matrix(const mx::array& qweight, const mx::array& scales,
                          const mx::array& zeros, const mx::array& bit_map,
                          const mx::array& block_offsets, const mx::array& matrix_offsets,
                          int rows, int columns);
// weight float32, float16 or bfloat16 [..., rows, columns].
StoredMatrix float_matrix(const mx::array& weight);

// x [..., columns] to [..., rows].
mx::array linear(const mx::array& x, const StoredMatrix& matrix);
// x [rows of x, columns], each row for as many consecutive indices: [indices, rows].
mx::array gather_linear(const mx::array& x, const StoredMatrix& stack, const mx::array& indices);
// x [..., matrices, l, columns] to [..., matrices, l, rows]; transposed the other way round.
mx::array multi_linear(const mx::array& x, const StoredMatrix& stack, int matrices,
                       bool transposed);
// Rows of the matrix, counted over the stack: rows [...] to [..., columns].
mx::array take(const StoredMatrix& stack, const mx::array& rows);

mx::array rms_norm(const mx::array& x, const std::optional<mx::array>& weight, float eps);
mx::array rope(const mx::array& x, int dimensions, bool traditional, std::optional<float> base,
               float scale, const mx::array& offset, const std::optional<mx::array>& frequencies);
mx::array attention(const mx::array& queries, const mx::array& keys, const mx::array& values,
                    float scale, bool causal, const std::optional<mx::array>& mask,
                    const std::optional<mx::array>& sinks);
mx::array softmax(const mx::array& x);
mx::array silu(const mx::array& x);
mx::array swiglu(const mx::array& gate, const mx::array& up);

}  // namespace jang
