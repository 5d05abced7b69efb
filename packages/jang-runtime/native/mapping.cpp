#include "mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <system_error>

#include "mlx/allocator.h"

namespace jang {

namespace mx = mlx::core;

MappedFile::MappedFile(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw std::system_error(errno, std::generic_category(), path);
  struct stat status {};
  if (fstat(file, &status) == 0 && status.st_size > 0) {
    size_ = static_cast<uint64_t>(status.st_size);
    void* data = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0);
    if (data != MAP_FAILED) data_ = static_cast<char*>(data);
  }
  const int error = errno;
  close(file);
  if (data_ == nullptr) throw std::system_error(error, std::generic_category(), path);
}

MappedFile::~MappedFile() { munmap(data_, size_); }

mx::array MappedFile::tensor(uint64_t begin, const mx::Shape& shape, mx::Dtype dtype) {
  uint64_t bytes = mx::size_of(dtype);
  for (auto length : shape) bytes *= static_cast<uint64_t>(length);
  if (begin > size_ || bytes > size_ - begin) {
    throw std::out_of_range("the tensor ends beyond its file");
  }
  char* data = data_ + begin;
  // MLX's CPU allocator keeps a block's size in the 8 bytes before it and hands out the address of
  // that. Before a tensor are the file's header or other tensors, so those bytes can be read.
  const mx::allocator::Data probe = mx::allocator::malloc(1);
  const auto prefix = static_cast<char*>(probe.buffer().raw_ptr()) -
                      static_cast<const char*>(probe.buffer().ptr());
  const bool aligned = reinterpret_cast<uintptr_t>(data) % mx::size_of(dtype) == 0;
  if (aligned && prefix >= 0 && static_cast<uint64_t>(prefix) <= begin) {
    auto keep = shared_from_this();
    mx::allocator::Data view(mx::allocator::Buffer(data - prefix),
                             [keep](mx::allocator::Buffer) {});
    return mx::array(std::move(view), shape, dtype);
  }
  mx::allocator::Data copy = mx::allocator::malloc(bytes);
  std::memcpy(copy.buffer().raw_ptr(), data, bytes);
  return mx::array(std::move(copy), shape, dtype);
}

}  // namespace jang
