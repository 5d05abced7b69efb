#include "primitives.h"

#include <cstring>
#include <sstream>
#include <stdexcept>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"

namespace jang {

void CpuPrimitive::eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) {
  throw std::runtime_error(std::string(name()) + " runs on the CPU only");
}

mx::Stream cpu_stream() { return mx::to_stream({}, mx::Device::cpu); }

void allocate(mx::array& out) { out.set_data(mx::allocator::malloc(out.nbytes())); }

namespace {

// Copies with the last axis innermost, `size` bytes an element.
void copy_strided(const char* source, char* target, const mx::Shape& shape,
                  const mx::Strides& strides, size_t size) {
  std::vector<int64_t> position(shape.size(), 0);
  size_t count = 1;
  for (auto length : shape) count *= static_cast<size_t>(length);
  int64_t offset = 0;
  for (size_t i = 0; i < count; ++i, target += size) {
    std::memcpy(target, source + offset * static_cast<int64_t>(size), size);
    for (int axis = static_cast<int>(shape.size()) - 1; axis >= 0; --axis) {
      offset += strides[axis];
      if (++position[axis] < shape[axis]) break;
      offset -= strides[axis] * shape[axis];
      position[axis] = 0;
    }
  }
}

}  // namespace

mx::array row_contiguous(const mx::array& x, mx::Stream stream) {
  if (x.flags().row_contiguous) return x;
  mx::array copy(x.shape(), x.dtype(), nullptr, {});
  allocate(copy);
  auto& encoder = mx::cpu::get_command_encoder(stream);
  encoder.set_input_array(x);
  encoder.set_output_array(copy);
  encoder.dispatch([source = x.data<char>(), target = copy.data<char>(), shape = x.shape(),
                    strides = x.strides(), size = x.itemsize()] {
    copy_strided(source, target, shape, strides, size);
  });
  encoder.add_temporary(copy);
  return copy;
}

void expect(bool holds, const std::string& name, const mx::array& found,
            const std::string& wanted) {
  if (holds) return;
  std::ostringstream message;
  message << name << ": found " << found.dtype() << " " << found.shape() << ", expected " << wanted;
  throw std::invalid_argument(message.str());
}

}  // namespace jang
