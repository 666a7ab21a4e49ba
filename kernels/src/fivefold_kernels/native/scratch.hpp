#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace ff {

// Memory that grows and is kept for the next pass.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  template <class T>
  T* of(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 127) / 64 * 64;
    if (bytes > size_) {
      std::free(data_);
      data_ = std::aligned_alloc(64, bytes);
      size_ = data_ ? bytes : 0;
      if (data_ == nullptr) throw std::bad_alloc();
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace ff
