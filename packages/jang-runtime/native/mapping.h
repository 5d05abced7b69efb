// Tensors of a weight file as arrays over the mapped file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "mlx/array.h"

namespace jang {

// A file, mapped for reading; arrays of it keep it mapped.
class MappedFile : public std::enable_shared_from_this<MappedFile> {
 public:
  // Raises OSError in Python.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // An array over the bytes from `begin` on, or a copy of them where they are not aligned.
  mlx::core::array tensor(uint64_t begin, const mlx::core::Shape& shape, mlx::core::Dtype dtype);

 private:
  char* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace jang
