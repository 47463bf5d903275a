// Vectors of the instruction set that this file is compiled for, and loops that are unrolled when compiled.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace halfstride {

#ifdef __AVX512F__
constexpr int LANES = 16;
constexpr int REGISTERS = 32;
#else
constexpr int LANES = 8;
constexpr int REGISTERS = 16;
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE inline __attribute__((always_inline))

static INLINE Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }

static INLINE void store(float* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }

static INLINE Vector broadcast(const float* from) {
#ifdef __AVX512F__
  return reinterpret_cast<Vector>(_mm512_set1_ps(*from));
#else
  return reinterpret_cast<Vector>(_mm256_broadcast_ss(from));
#endif
}

template <class Body, int... I>
static INLINE void unrolled(Body&& body, std::integer_sequence<int, I...>) {
  (body(std::integral_constant<int, I>{}), ...);
}

// body(0), ..., body(COUNT - 1), each with a constant.
template <int COUNT, class Body>
static INLINE void unrolled(Body&& body) {
  unrolled(body, std::make_integer_sequence<int, COUNT>{});
}

// The lambda of `unrolled`.
#define EACH(i) [&](auto i) __attribute__((always_inline))

// to[c * to_step + r] = from[r * from_step + c] for 8 x 8 numbers, in registers.
static INLINE void transpose_square(const float* from, int64_t from_step, float* to, int64_t to_step) {
  __m256 rows[8], pairs[8], fours[8];
  unrolled<8>(EACH(i) { rows[i] = _mm256_loadu_ps(from + i * from_step); });
  unrolled<4>(EACH(i) {
    pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
    pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
  });
  unrolled<2>(EACH(i) {
    unrolled<2>(EACH(j) {
      fours[4 * i + 2 * j] = _mm256_shuffle_ps(pairs[4 * i + j], pairs[4 * i + 2 + j], 0x44);
      fours[4 * i + 2 * j + 1] = _mm256_shuffle_ps(pairs[4 * i + j], pairs[4 * i + 2 + j], 0xEE);
    });
  });
  unrolled<4>(EACH(i) {
    _mm256_storeu_ps(to + i * to_step, _mm256_permute2f128_ps(fours[i], fours[4 + i], 0x20));
    _mm256_storeu_ps(to + (4 + i) * to_step, _mm256_permute2f128_ps(fours[i], fours[4 + i], 0x31));
  });
}

// to[c * to_step + r] = from[r * from_step + c].
static inline void transpose(const float* from, int64_t from_step, int64_t rows, int64_t columns, float* to,
                             int64_t to_step) {
  constexpr int64_t SIDE = 8;
  for (int64_t r = 0; r < rows; r += SIDE)
    for (int64_t c = 0; c < columns; c += SIDE)
      if (r + SIDE <= rows && c + SIDE <= columns)
        transpose_square(from + r * from_step + c, from_step, to + c * to_step + r, to_step);
      else
        for (int64_t i = r; i < std::min(rows, r + SIDE); i++)
          for (int64_t j = c; j < std::min(columns, c + SIDE); j++) to[j * to_step + i] = from[i * from_step + j];
}

}  // namespace halfstride
