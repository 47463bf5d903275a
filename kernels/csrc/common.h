// What all loops of this package share.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace halfstride {

using torch::stable::Tensor;

constexpr int64_t LEAST = 1 << 16;  // fewer products are made by one thread
constexpr int64_t TILES_PER_THREAD = 4;

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline const float* floats(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == torch::headeronly::ScalarType::Float && tensor.is_contiguous(), name,
                  " must be contiguous float32");
  return static_cast<const float*>(tensor.const_data_ptr());
}

// body(begin, end) for parts of `count` tiles that make so many products in all.
template <class Body>
void in_parallel(int64_t count, int64_t products, Body&& body) {
  if (products < LEAST)
    body(0, count);
  else
    torch::stable::parallel_for(0, count, 1, body);
}

}  // namespace halfstride
