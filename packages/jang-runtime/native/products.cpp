#include "products.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "kernels.h"
#include "threads.h"

namespace jang {

namespace {

constexpr int64_t kFewRows = 8;      // up to here codes are decoded again for each kMaxDotRows
constexpr int64_t kDotRows = 2;      // up to here rows of packed matrices are no strips
constexpr int64_t kStripRows = 32;   // up to here they are
constexpr int kStripTask = 16;       // matrix rows that all passes multiply in turn
constexpr int64_t kPanelCount = 256;  // rows of x that one panel is multiplied with
// Multiplications that are worth another thread's while.
constexpr int64_t kTaskSize = 1 << 17;

// Memory that a thread keeps from one task to the next. Vectors across cache lines cost twice.
float* scratch(size_t size) {
  struct Line {
    alignas(64) float values[16];
  };
  thread_local std::vector<Line> memory;
  const size_t lines = (size + 15) / 16;
  if (memory.size() < lines) memory.resize(lines);
  return memory.data()->values;
}

// Rows of x as the kernels want them for a matrix.
class PreparedRows {
 public:
  PreparedRows(const Matrix& matrix, const float* x, int64_t stride, int64_t count)
      : values_(x), stride_(stride) {
    if (matrix.layout == Layout::floats) return;
    const RowsShape shape = kernels().rows_shape(matrix);
    memory_.assign(static_cast<size_t>(count * (shape.values + shape.group_sums)), 0.0f);
    sums_ = memory_.data() + count * shape.values;
    sums_stride_ = shape.group_sums;
    for (int64_t i = 0; i < count; ++i) {
      kernels().prepare(matrix, x + i * stride, memory_.data() + i * shape.values,
                        memory_.data() + count * shape.values + i * shape.group_sums);
    }
    values_ = memory_.data();
    stride_ = shape.values;
  }

  Rows some(int64_t first, int count) const {
    return {values_ + first * stride_, stride_, count, sums_ + first * sums_stride_, sums_stride_};
  }

 private:
  std::vector<float> memory_;
  const float* values_;
  int64_t stride_;
  const float* sums_ = nullptr;
  int64_t sums_stride_ = 0;
};

int64_t tasks_for(int64_t work, int64_t most) {
  const int64_t threads = thread_count();
  if (threads == 1) return 1;
  // A few tasks for each thread, so that none waits long for the slowest.
  return std::clamp<int64_t>(std::min(work / kTaskSize, threads * 16), 1, most);
}

// A few rows: codes are decoded in registers.
void multiply_few(const Matrix& matrix, const PreparedRows& x, int64_t count, float* out,
                  int64_t out_stride) {
  const int64_t work = int64_t{matrix.rows} * matrix.columns * count;
  const int64_t tasks = tasks_for(work, matrix.rows);
  parallel_for(tasks, [&](int64_t task) {
    const int begin = static_cast<int>(matrix.rows * task / tasks);
    const int end = static_cast<int>(matrix.rows * (task + 1) / tasks);
    for (int64_t first = 0; first < count; first += kMaxDotRows) {
      const int some = static_cast<int>(std::min<int64_t>(kMaxDotRows, count - first));
      kernels().dots(matrix, x.some(first, some), begin, end, out + first * out_stride,
                     out_stride);
    }
  });
}

// Some rows of x, interleaved in passes of at most kernels().strip_sums.
class StripPasses {
 public:
  StripPasses(const float* x, int64_t stride, int64_t count, int columns) : count_(count) {
    const int64_t most = kernels().strip_sums;
    passes_ = (count + most - 1) / most;
    const int64_t share = (count + passes_ - 1) / passes_;
    rows_ = static_cast<int>((share + 3) / 4 * 4);
    size_ = int64_t{columns} * rows_;
    // A vector more: stores of the last column go beyond it.
    memory_ = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(passes_ * size_ + 16));
    for (int64_t pass = 0; pass < passes_; ++pass) {
      kernels().interleave(x + pass * rows_ * stride, stride, rows_of(pass), columns, rows_,
                           memory_.get() + pass * size_);
    }
  }

  // Rows begin to end of the matrix, times all of x.
  void multiply(const Matrix& matrix, int begin, int end, float* out, int64_t out_stride) const {
    for (int strip = begin; strip < end; strip += kStripTask) {
      const int last = std::min(strip + kStripTask, end);
      for (int64_t pass = 0; pass < passes_; ++pass) {
        kernels().strips(matrix, strip, last, memory_.get() + pass * size_, rows_, rows_of(pass),
                         out + pass * rows_ * out_stride, out_stride);
      }
    }
  }

 private:
  int rows_of(int64_t pass) const {
    return static_cast<int>(std::min<int64_t>(rows_, count_ - pass * rows_));
  }

  int64_t count_;
  int64_t passes_;
  int rows_;
  int64_t size_;
  std::unique_ptr<float[]> memory_;
};

// Some rows: codes are decoded in registers, with a matrix row in each lane.
void multiply_strips(const Matrix& matrix, const float* x, int64_t stride, int64_t count,
                     float* out, int64_t out_stride) {
  const StripPasses passes(x, stride, count, matrix.columns);
  const int64_t strips = (matrix.rows + kStripTask - 1) / kStripTask;
  const int64_t tasks = tasks_for(int64_t{matrix.rows} * matrix.columns * count, strips);
  parallel_for(tasks, [&](int64_t task) {
    const int begin = static_cast<int>(strips * task / tasks) * kStripTask;
    const int end = static_cast<int>(strips * (task + 1) / tasks) * kStripTask;
    passes.multiply(matrix, begin, std::min(end, matrix.rows), out, out_stride);
  });
}

// out[i, 0 to rows] = rows of the matrix from `begin` on, at most kPanelRows, times row i of x.
void multiply_panel(const Matrix& matrix, int begin, int rows, const float* x, int64_t stride,
                    int64_t count, float* out, int64_t out_stride) {
  const bool in_parts = matrix.layout == Layout::packed && matrix.columns > kPanelColumns;
  const int columns = in_parts ? kPanelColumns : matrix.columns;
  const size_t size = static_cast<size_t>(kPanelRows) * columns;
  float* panel = scratch(2 * size);
  for (int64_t i = 0; i < count; ++i) std::fill_n(out + i * out_stride, rows, 0.0f);
  for (int first = 0; first < matrix.columns; first += columns) {
    const int some = std::min(columns, matrix.columns - first);
    kernels().panel(matrix, begin, first, some, panel + size, panel);
    kernels().tile_sums(x + first, stride, static_cast<int>(count), panel, kPanelRows, some, rows,
                        out, out_stride);
  }
}

// Many rows: a panel of the matrix is turned into floats.
void multiply_many(const Matrix& matrix, const float* x, int64_t stride, int64_t count, float* out,
                   int64_t out_stride) {
  const int64_t panels = (matrix.rows + kPanelRows - 1) / kPanelRows;
  const int64_t parts = (count + kPanelCount - 1) / kPanelCount;
  parallel_for(panels * parts, [&](int64_t task) {
    const int begin = static_cast<int>(task / parts) * kPanelRows;
    const int rows = std::min(kPanelRows, matrix.rows - begin);
    const int64_t first = task % parts * kPanelCount;
    multiply_panel(matrix, begin, rows, x + first * stride, stride,
                   std::min(kPanelCount, count - first), out + first * out_stride + begin,
                   out_stride);
  });
}

// Rows of x by the matrix they want: rows of matrix m are order[starts[m]] to order[starts[m + 1]].
struct ByMatrix {
  std::vector<int64_t> order;
  std::vector<uint32_t> matrices;  // those that are wanted at all
  std::vector<int64_t> starts;

  ByMatrix(const uint32_t* indices, int64_t count) : order(static_cast<size_t>(count)) {
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [indices](int64_t a, int64_t b) { return indices[a] < indices[b]; });
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t matrix = indices[order[i]];
      if (matrices.empty() || matrices.back() != matrix) {
        matrices.push_back(matrix);
        starts.push_back(i);
      }
    }
    starts.push_back(count);
  }
};

}  // namespace

void multiply(const Matrix& matrix, const float* x, int64_t stride, int64_t count, float* out,
              int64_t out_stride) {
  if (count == 0) return;
  if (matrix.layout == Layout::packed && kDotRows < count && count <= kStripRows) {
    multiply_strips(matrix, x, stride, count, out, out_stride);
  } else if (count <= kFewRows) {
    multiply_few(matrix, PreparedRows(matrix, x, stride, count), count, out, out_stride);
  } else {
    multiply_many(matrix, x, stride, count, out, out_stride);
  }
}

void multiply_gathered(const Matrix& stack, const float* x, int64_t repeat,
                       const uint32_t* indices, int64_t count, float* out) {
  const ByMatrix groups(indices, count);
  const int64_t wanted = static_cast<int64_t>(groups.matrices.size());
  const int64_t columns = stack.columns;
  const int64_t rows = stack.rows;
  // Parts of a matrix are tasks of their own, for there may be fewer matrices than threads.
  const int64_t parts = tasks_for(rows * columns, std::max<int64_t>(1, rows / kPanelRows));
  parallel_for(wanted * parts, [&](int64_t task) {
    const int64_t group = task / parts;
    const int64_t part = task % parts;
    const Matrix matrix = nth(stack, groups.matrices[group]);
    const int begin = static_cast<int>(rows * part / parts);
    const int end = static_cast<int>(rows * (part + 1) / parts);
    const int64_t first = groups.starts[group];
    const int64_t some = groups.starts[group + 1] - first;
    std::vector<float> gathered(static_cast<size_t>(some * columns));
    for (int64_t i = 0; i < some; ++i) {
      std::memcpy(gathered.data() + i * columns, x + groups.order[first + i] / repeat * columns,
                  sizeof(float) * columns);
    }
    std::vector<float> result(static_cast<size_t>(some * rows));
    if (some <= kMaxDotRows) {
      const PreparedRows prepared(matrix, gathered.data(), columns, some);
      kernels().dots(matrix, prepared.some(0, static_cast<int>(some)), begin, end, result.data(),
                     rows);
    } else if (matrix.layout == Layout::packed && some <= kStripRows) {
      const StripPasses passes(gathered.data(), columns, some, matrix.columns);
      passes.multiply(matrix, begin, end, result.data(), rows);
    } else {
      for (int panel = begin; panel < end; panel += kPanelRows) {
        multiply_panel(matrix, panel, std::min(kPanelRows, end - panel), gathered.data(), columns,
                       some, result.data() + panel, rows);
      }
    }
    for (int64_t i = 0; i < some; ++i) {
      std::memcpy(out + groups.order[first + i] * rows + begin, result.data() + i * rows + begin,
                  sizeof(float) * (end - begin));
    }
  });
}

void multiply_transposed(const Matrix& matrix, const float* x, int64_t count, float* out) {
  const int columns = matrix.columns;
  std::memset(out, 0, sizeof(float) * static_cast<size_t>(count) * columns);
  float* panel = scratch(static_cast<size_t>(kPanelRows) * columns);
  for (int begin = 0; begin < matrix.rows; begin += kPanelRows) {
    const int rows = std::min(kPanelRows, matrix.rows - begin);
    kernels().dequantize(matrix, begin, begin + rows, panel, columns);
    kernels().tile_sums(x + begin, matrix.rows, static_cast<int>(count), panel, columns, rows,
                        columns, out, columns);
  }
}

void take_rows(const Matrix& stack, const uint32_t* rows, int64_t count, float* out) {
  const int64_t tasks = tasks_for(count * stack.columns, count);
  parallel_for(tasks, [&](int64_t task) {
    for (int64_t i = count * task / tasks; i < count * (task + 1) / tasks; ++i) {
      const Matrix matrix = nth(stack, rows[i] / static_cast<uint32_t>(stack.rows));
      const int row = static_cast<int>(rows[i] % static_cast<uint32_t>(stack.rows));
      kernels().dequantize(matrix, row, row + 1, out + i * stack.columns, stack.columns);
    }
  });
}

}  // namespace jang
