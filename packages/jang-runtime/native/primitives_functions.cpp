// Norms, rotations, softmax and activations.
#include <cmath>
#include <stdexcept>

#include "kernels.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "primitives.h"
#include "threads.h"

namespace jang {

namespace {

constexpr int64_t kElementsPerTask = 1 << 14;

void expect_floats(const std::string& name, const mx::array& x) {
  expect(x.dtype() == mx::float32, name, x, "float32");
}

// Runs a function of rows [begin, end) on several threads if there is enough to do.
template <class Function>
void over_rows(int64_t rows, int64_t size, Function function) {
  const int64_t wanted = rows * size / kElementsPerTask;
  const int64_t most = std::max<int64_t>(1, std::min<int64_t>(rows, thread_count() * 4));
  const int64_t tasks = std::clamp<int64_t>(wanted, 1, most);
  parallel_for(tasks, [&](int64_t task) {
    function(rows * task / tasks, rows * (task + 1) / tasks);
  });
}

// A function whose result has the shape of its first input; mlx-lm compiles some of them for every
// shape, and then MLX asks for that of each.
class SameShape : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }
};

class RmsNorm : public SameShape {
 public:
  RmsNorm(mx::Stream stream, float eps) : SameShape(stream), eps_(eps) {}
  DEFINE_NAME(JangRmsNorm)

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    const mx::array x = row_contiguous(inputs[0], stream());
    const float* weight = nullptr;
    if (inputs.size() > 1) weight = row_contiguous(inputs[1], stream()).data<float>();
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.set_output_array(out);
    encoder.dispatch([x = x.data<float>(), weight, out = out.data<float>(), eps = eps_,
                      size = x.shape(-1), rows = static_cast<int64_t>(x.size() / x.shape(-1))] {
      over_rows(rows, size, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          kernels().rms_norm(x + i * size, weight, eps, size, out + i * size);
        }
      });
    });
  }

 private:
  float eps_;
};

class Softmax : public SameShape {
 public:
  using SameShape::SameShape;
  DEFINE_NAME(JangSoftmax)

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    const mx::array x = row_contiguous(inputs[0], stream());
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.set_output_array(out);
    encoder.dispatch([x = x.data<float>(), out = out.data<float>(), size = x.shape(-1),
                      rows = static_cast<int64_t>(x.size() / x.shape(-1))] {
      over_rows(rows, size, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) kernels().softmax(x + i * size, size, out + i * size);
      });
    });
  }
};

// A function of one or two arrays, element by element.
class Activation : public SameShape {
 public:
  using SameShape::SameShape;
  DEFINE_NAME(JangActivation)

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    const mx::array gate = row_contiguous(inputs[0], stream());
    const float* up = nullptr;
    if (inputs.size() > 1) up = row_contiguous(inputs[1], stream()).data<float>();
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.set_output_array(out);
    encoder.dispatch([gate = gate.data<float>(), up, out = out.data<float>(),
                      size = static_cast<int64_t>(out.size())] {
      over_rows(size, 1, [=](int64_t begin, int64_t end) {
        if (up == nullptr) {
          kernels().silu(gate + begin, end - begin, out + begin);
        } else {
          kernels().swiglu(gate + begin, up + begin, end - begin, out + begin);
        }
      });
    });
  }
};

// x [batch, heads, length, size] by strides; the last axis is contiguous.
struct RopeInput {
  const float* values;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t step_stride;
  int batch;
  int heads;
  int length;
  int size;
};

class Rope : public SameShape {
 public:
  Rope(mx::Stream stream, int dimensions, bool traditional, float base, float scale)
      : SameShape(stream), dimensions_(dimensions), traditional_(traditional), base_(base),
        scale_(scale) {}
  DEFINE_NAME(JangRope)

  // Inputs are x [batch, heads, length, size], offset [1 or batch], and perhaps frequencies.
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    const mx::array x =
        inputs[0].strides(-1) == 1 ? inputs[0] : row_contiguous(inputs[0], stream());
    const RopeInput input{x.data<float>(), x.strides(0), x.strides(1), x.strides(2),
                          x.shape(0),      x.shape(1),   x.shape(2),   x.shape(3)};
    const mx::array offsets = row_contiguous(inputs[1], stream());
    const float* frequencies = nullptr;
    if (inputs.size() > 2) frequencies = row_contiguous(inputs[2], stream()).data<float>();
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.set_output_array(out);
    encoder.dispatch([*this, input, offsets = offsets.data<int>(), frequencies,
                      offset_stride = offsets.size() > 1 ? 1 : 0, out = out.data<float>()] {
      rotate(input, offsets, offset_stride, frequencies, out);
    });
  }

 private:
  Rope(const Rope& other)
      : SameShape(const_cast<Rope&>(other).stream()), dimensions_(other.dimensions_),
        traditional_(other.traditional_), base_(other.base_), scale_(other.scale_) {}

  void rotate(const RopeInput& x, const int* offsets, int offset_stride, const float* frequencies,
              float* out) const {
    const int half = dimensions_ / 2;
    std::vector<float> inverse(static_cast<size_t>(half));
    for (int i = 0; i < half; ++i) {
      inverse[i] = frequencies != nullptr
                       ? 1.0f / frequencies[i]
                       : std::exp(-static_cast<float>(i) * (std::log(base_) / half));
    }
    over_rows(int64_t{x.batch} * x.length, int64_t{x.heads} * x.size,
              [&](int64_t begin, int64_t end) {
      std::vector<float> angles(static_cast<size_t>(2 * half));
      float* cosines = angles.data();
      float* sines = cosines + half;
      for (int64_t place = begin; place < end; ++place) {
        const int64_t batch = place / x.length;
        const int64_t step = place % x.length;
        const float position =
            static_cast<float>(offsets[batch * offset_stride] + step) * scale_;
        for (int i = 0; i < half; ++i) {
          cosines[i] = std::cos(position * inverse[i]);
          sines[i] = std::sin(position * inverse[i]);
        }
        for (int64_t head = 0; head < x.heads; ++head) {
          const float* from = x.values + batch * x.batch_stride + head * x.head_stride +
                              step * x.step_stride;
          float* to = out + ((batch * x.heads + head) * x.length + step) * x.size;
          kernels().rope(from, cosines, sines, dimensions_, traditional_, to);
          std::copy(from + dimensions_, from + x.size, to + dimensions_);
        }
      }
    });
  }

  int dimensions_;
  bool traditional_;
  float base_;
  float scale_;
};

}  // namespace

mx::array rms_norm(const mx::array& x, const std::optional<mx::array>& weight, float eps) {
  expect_floats("x", x);
  expect(x.ndim() > 0, "x", x, "at least one axis");
  std::vector<mx::array> inputs{x};
  if (weight) {
    expect(weight->dtype() == mx::float32 && weight->ndim() == 1 &&
               weight->shape(0) == x.shape(-1),
           "weight", *weight, "float32 [" + std::to_string(x.shape(-1)) + "]");
    inputs.push_back(*weight);
  }
  return mx::array(x.shape(), mx::float32, std::make_shared<RmsNorm>(cpu_stream(), eps),
                   std::move(inputs));
}

mx::array softmax(const mx::array& x) {
  expect_floats("x", x);
  expect(x.size() > 0, "x", x, "at least one element");
  return mx::array(x.shape(), mx::float32, std::make_shared<Softmax>(cpu_stream()), {x});
}

mx::array silu(const mx::array& x) {
  expect_floats("x", x);
  return mx::array(x.shape(), mx::float32, std::make_shared<Activation>(cpu_stream()), {x});
}

mx::array swiglu(const mx::array& gate, const mx::array& up) {
  expect_floats("gate", gate);
  expect(up.dtype() == mx::float32 && up.shape() == gate.shape(), "up", up,
         "dtype and shape of the gate");
  return mx::array(gate.shape(), mx::float32, std::make_shared<Activation>(cpu_stream()),
                   {gate, up});
}

mx::array rope(const mx::array& x, int dimensions, bool traditional, std::optional<float> base,
               float scale, const mx::array& offset, const std::optional<mx::array>& frequencies) {
  expect(x.dtype() == mx::float32 && x.ndim() >= 3, "x", x, "float32 [batch, ..., length, size]");
  if (dimensions <= 0 || dimensions % 2 != 0 || dimensions > x.shape(-1)) {
    throw std::invalid_argument("dimensions: found " + std::to_string(dimensions) +
                                ", expected an even number up to the size of x");
  }
  if (base.has_value() == frequencies.has_value()) {
    throw std::invalid_argument("rope takes either a base or frequencies");
  }
  const mx::Stream stream = cpu_stream();
  const int batch = x.shape(0);
  expect(offset.ndim() == 0 || (offset.ndim() == 1 &&
                                (offset.shape(0) == 1 || offset.shape(0) == batch)),
         "offset", offset, "a number, or one for each of the batch");
  const int heads = static_cast<int>(x.size() / (int64_t{batch} * x.shape(-1) * x.shape(-2)));
  const mx::Shape four{batch, heads, x.shape(-2), x.shape(-1)};
  std::vector<mx::array> inputs{x.ndim() == 4 ? x : mx::reshape(x, four, stream),
                                mx::astype(offset, mx::int32, stream)};
  if (frequencies) {
    expect(frequencies->ndim() == 1 && frequencies->shape(0) == dimensions / 2, "frequencies",
           *frequencies, "float32 [dimensions / 2]");
    inputs.push_back(mx::astype(*frequencies, mx::float32, stream));
  }
  mx::array out(four, mx::float32,
                std::make_shared<Rope>(stream, dimensions, traditional, base.value_or(1.0f), scale),
                std::move(inputs));
  return x.ndim() == 4 ? out : mx::reshape(out, x.shape(), stream);
}

}  // namespace jang
