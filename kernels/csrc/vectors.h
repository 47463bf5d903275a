// Vectors of the instruction set that this file is compiled for, and loops that are unrolled when compiled.
#pragma once
#include <immintrin.h>

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

}  // namespace halfstride
