// Programs on images: `run`, the operator or its gradient to the input, and `cross`, that to the weight.
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <optional>

#include "common.h"
#include "program.h"
#include "vectors.h"

namespace halfstride {

namespace {

// A block of a matrix product that fits the registers: POSITIONS x (2 vectors of output channels).
constexpr int WIDE = 2, BLOCK = WIDE * LANES, POSITIONS = (REGISTERS - 4) / WIDE;
constexpr int PRODUCTS = POSITIONS * WIDE;
constexpr int GROUP = 4;  // blocks that take a step one after another, while its kernel is in the nearest cache

int64_t rounded_up(int64_t n, int64_t to) { return divided_up(n, to) * to; }

// to[m] = begin[m] + add[m] + sum over channels c of from[m * step + c] * kernel[c], for M positions and N vectors.
// The result goes to a slot, or to outputs that lie `out_step` apart.
template <int M, int N>
__attribute__((noinline)) void multiply(const Vector* begin, const Vector* add, const float* from, int64_t step,
                                        const float* kernel, int64_t channels, Vector* to, float* out,
                                        int64_t out_step) {
  Vector sums[M * N];
  unrolled<M * N>(EACH(i) { sums[i] = begin[i]; });
  for (int64_t c = 0; c < channels; c++, kernel += BLOCK, from++) {
    Vector weights[N];
    unrolled<N>(EACH(n) { weights[n] = load(kernel + n * LANES); });
    unrolled<M>(EACH(m) {
      const Vector value = broadcast(from + m * step);
      unrolled<N>(EACH(n) { sums[m * N + n] += value * weights[n]; });
    });
  }
  if (out)
    unrolled<M>(EACH(m) {
      unrolled<N>(EACH(n) { store(out + m * out_step + n * LANES, sums[m * N + n] + add[m * N + n]); });
    });
  else
    unrolled<M * N>(EACH(i) { to[i] = sums[i] + add[i]; });
}

// to[m] += sum over rows and positions p of one[m], at steps, times other: M channels of one, N vectors of other.
template <int M, int N>
__attribute__((noinline)) void cross_rows(const float* const* ones, int64_t one_at, int64_t one_step,
                                          const float* const* others, int64_t other_at, int64_t other_step, int64_t rows,
                                          int64_t positions, float* to, int64_t to_step) {
  Vector sums[M * N];
  unrolled<M>(EACH(m) { unrolled<N>(EACH(n) { sums[m * N + n] = load(to + m * to_step + n * LANES); }); });
  for (int64_t row = 0; row < rows; row++) {
    const float *one = ones[row] + one_at, *other = others[row] + other_at;
    for (int64_t p = 0; p < positions; p++, one += one_step, other += other_step) {
      Vector values[N];
      unrolled<N>(EACH(n) { values[n] = load(other + n * LANES); });
      unrolled<M>(EACH(m) {
        const Vector value = broadcast(one + m);
        unrolled<N>(EACH(n) { sums[m * N + n] += value * values[n]; });
      });
    }
  }
  unrolled<M>(EACH(m) { unrolled<N>(EACH(n) { store(to + m * to_step + n * LANES, sums[m * N + n]); }); });
}

// The functions above by 0 < positions <= POSITIONS and 0 < vectors <= WIDE.
#define BY_SIZE(function)                                                                          \
  template <int... M>                                                                              \
  auto function##_of(int64_t positions, int64_t vectors, std::integer_sequence<int, M...>) {       \
    static constexpr decltype(&function<1, 1>) one[] = {&function<M + 1, 1>...};                   \
    static constexpr decltype(&function<1, 1>) two[] = {&function<M + 1, 2>...};                   \
    return (vectors == 1 ? one : two)[positions - 1];                                              \
  }                                                                                                \
  auto function##_of(int64_t positions, int64_t vectors) {                                         \
    return function##_of(positions, vectors, std::make_integer_sequence<int, POSITIONS>{});        \
  }
BY_SIZE(multiply)
BY_SIZE(cross_rows)
#undef BY_SIZE

// Evenly sized parts of a range, of at most POSITIONS each.
template <class Body>
INLINE void in_blocks(int64_t count, Body&& body) {
  const int64_t blocks = divided_up(count, POSITIONS);
  for (int64_t b = 0; b < blocks; b++) {
    const int64_t start = count * b / blocks;
    body(start, count * (b + 1) / blocks - start);
  }
}

int64_t positions_of(const Program& program) {
  return program.axes[0].size * program.axes[1].size * program.axes[2].size;
}

// The channels of an input (images, positions, channels), or (images, channels, positions) where they are not `last`.
int64_t channels_of(const Program& program, const Tensor& input, bool last) {
  const int64_t positions = positions_of(program);
  STD_TORCH_CHECK(input.dim() == 3 && input.size(last ? 1 : 2) == positions, "the program is for an input of ",
                  positions, " positions");
  return input.size(last ? 2 : 1);
}

struct Block {
  int64_t row, column, count;
};

// The outputs of one block of positions in a row: where they are, and which of them exist.
struct Outputs {
  int64_t place;  // of the first, among the positions of an image
  int64_t valid_from, valid_until;
};

}  // namespace

// kernels (count, out, in) -> (blocks of output channels, count, in, BLOCK), with zeros for channels that do not exist.
Tensor pack(const Tensor& kernels) {
  const int64_t count = kernels.size(0), out = kernels.size(1), in = kernels.size(2);
  const float* from = floats(kernels, "kernels");
  Tensor packed = torch::stable::new_empty(kernels, {rounded_up(out, BLOCK) / BLOCK, count, in, BLOCK});
  float* to = static_cast<float*>(packed.mutable_data_ptr());
  for (int64_t first = 0; first < out; first += BLOCK)
    for (int64_t k = 0; k < count; k++)
      for (int64_t c = 0; c < in; c++, to += BLOCK)
        for (int64_t o = 0; o < BLOCK; o++) to[o] = first + o < out ? from[(k * out + first + o) * in + c] : 0.f;
  return packed;
}

// input (images, positions, in), kernels (blocks of output channels, kernels, in, BLOCK), bias (out,) ->
// (images, output positions, out); with the channels before the positions in both where they are not `last`.
Tensor run(const Tensor& input, const Tensor& kernels, std::optional<Tensor> bias, const Tensor& numbers, int64_t out,
           bool last) {
  const Program program(numbers);
  const Axis *z = program.axes, *y = z + 1, *x = z + 2;
  const int64_t images = input.size(0), in = channels_of(program, input, last);
  const int64_t panel = in * BLOCK, blocks = rounded_up(out, BLOCK) / BLOCK;
  STD_TORCH_CHECK(kernels.numel() == blocks * program.kernels * panel, "the kernels do not fit the program");
  STD_TORCH_CHECK(!bias || bias->size(0) == out, "the bias does not fit the output channels");
  const float *px = floats(input, "input"), *pk = floats(kernels, "kernels");
  const float* pb = bias ? floats(*bias, "bias") : nullptr;
  const int64_t output_positions = z->output_size * y->output_size * x->output_size;
  Tensor output = last ? torch::stable::new_empty(input, {images, output_positions, out})
                       : torch::stable::new_empty(input, {images, out, output_positions});
  float* py = static_cast<float*>(output.mutable_data_ptr());

  const int64_t kinds = z->kinds.size() * y->kinds.size() * x->kinds.size();
  const int64_t lines = z->phases * y->phases;  // of outputs, for a row of positions
  const Tiles tiles(program, images, kinds * in + (last ? 0 : lines * x->phases * BLOCK), POSITIONS);
  const int64_t products = images * z->count * y->count * x->count * in * out * program.kernels;
  // Where the outputs of a phase are, for `count` positions from a row and column of a tile on, and which of them exist.
  const auto outputs_of = [&](const Tile& tile, int64_t row, int64_t column, int64_t count, const int64_t* r) {
    const int64_t a = z->phases * tile.depth + r[0] - z->skipped;
    const int64_t b = y->phases * (tile.row + row) + r[1] - y->skipped;
    const int64_t c = x->phases * (tile.column + column) + r[2] - x->skipped;
    Outputs outputs{0, 0, 0};
    if (a < 0 || a >= z->output_size || b < 0 || b >= y->output_size) return outputs;
    outputs.place = (a * y->output_size + b) * x->output_size + c;
    outputs.valid_from = c < 0 ? (-c + x->phases - 1) / x->phases : 0;
    outputs.valid_until = std::min(count, c >= x->output_size ? 0 : (x->output_size - c - 1) / x->phases + 1);
    return outputs;
  };

  in_parallel(tiles.size(), products, [&](int64_t begin, int64_t end) {
    Rows rows(program, in, in, last);
    std::vector<Vector> slots(GROUP * program.slots * PRODUCTS, Vector{});
    std::vector<Block> blocks_of_tile;
    std::vector<float> aside(POSITIONS * BLOCK);  // outputs that are not yet where they belong
    Tile tile;
    // One step at one block of positions, for one block of output channels.
    const auto take = [&](const Step& step, const Block& at, int64_t place, int64_t block, int64_t channels) {
      const int64_t vectors = divided_up(channels, LANES);
      Vector* slot = slots.data() + place * program.slots * PRODUCTS;
      Vector* to = step.to >= 0 ? slot + step.to * PRODUCTS : nullptr;
      float *direct = nullptr, *later = nullptr;
      int64_t distance = x->phases * out;
      Outputs outputs{};
      if (step.to < 0 && !last) {
        const int64_t line = at.row * lines + step.phase[0] * y->phases + step.phase[1];
        direct = aside.data() + (line * tile.columns * x->phases + at.column * x->phases + step.phase[2]) * BLOCK;
        distance = x->phases * BLOCK;
      } else if (step.to < 0) {
        outputs = outputs_of(tile, at.row, at.column, at.count, step.phase);
        if (outputs.valid_from >= outputs.valid_until) return;
        direct = py + (tile.image * output_positions + outputs.place) * out + block * BLOCK;
        if (channels < vectors * LANES || outputs.valid_from > 0 || outputs.valid_until < at.count) {
          later = direct;
          direct = aside.data();
          distance = BLOCK;
        }
      }
      multiply_of(at.count, vectors)(slot + step.begin * PRODUCTS, slot + step.add * PRODUCTS,
                                     rows.at(step, at.row, at.column), in,
                                     pk + (block * program.kernels + std::max<int64_t>(step.kernel, 0)) * panel,
                                     step.kernel < 0 ? 0 : in, to, direct, distance);
      if (later)
        for (int64_t m = outputs.valid_from; m < outputs.valid_until; m++)
          std::memcpy(later + m * x->phases * out, direct + m * BLOCK, channels * sizeof(float));
    };
    // All outputs of a tile, from `aside` to where channels lie before positions.
    const auto turn = [&](int64_t block, int64_t channels) {
      float* to = py + (tile.image * out + block * BLOCK) * output_positions;
      const int64_t width = tile.columns * x->phases, start = x->phases * tile.column - x->skipped;
      const int64_t from = std::max<int64_t>(-start, 0), until = std::min(width, x->output_size - start);
      for (int64_t row = 0; row < tile.rows; row++)
        for (int64_t line = 0; line < lines && from < until; line++) {
          const int64_t a = z->phases * tile.depth + line / y->phases - z->skipped;
          const int64_t b = y->phases * (tile.row + row) + line % y->phases - y->skipped;
          if (a < 0 || a >= z->output_size || b < 0 || b >= y->output_size) continue;
          transpose(aside.data() + ((row * lines + line) * width + from) * BLOCK, BLOCK, until - from, channels,
                    to + (a * y->output_size + b) * x->output_size + start + from, output_positions);
        }
    };
    for (int64_t t = begin; t < end; t++) {
      tile = tiles[t];
      rows.read(px, tile);
      if (!last) aside.resize(tile.rows * lines * tile.columns * x->phases * BLOCK);
      blocks_of_tile.clear();
      for (int64_t row = 0; row < tile.rows; row++)
        in_blocks(tile.columns, [&](int64_t column, int64_t count) { blocks_of_tile.push_back({row, column, count}); });
      for (int64_t block = 0; block < blocks; block++) {
        const int64_t channels = std::min<int64_t>(BLOCK, out - block * BLOCK);
        const int64_t vectors = divided_up(channels, LANES);
        float biases[BLOCK] = {};
        if (pb) std::copy(pb + block * BLOCK, pb + block * BLOCK + channels, biases);
        for (int64_t place = 0; place < GROUP; place++)
          for (int64_t i = 0; i < POSITIONS * vectors; i++)
            slots[(place * program.slots + BIAS) * PRODUCTS + i] = load(biases + i % vectors * LANES);
        for (size_t first = 0; first < blocks_of_tile.size(); first += GROUP) {
          const size_t beyond = std::min(blocks_of_tile.size(), first + GROUP);
          for (const Step& step : program.steps)
            for (size_t i = first; i < beyond; i++) take(step, blocks_of_tile[i], i - first, block, channels);
        }
        if (!last) turn(block, channels);
      }
    }
  });
  return output;
}

// one (images, positions, in) by one program, other (images, positions, out) by another with as many steps, or with the
// channels before the positions in both where they are not `last` ->
// (parts, steps, in, out rounded up to vectors): for every step the products of all pairs of channels, summed over
// positions; the sum over parts is the whole.
Tensor cross(const Tensor& one, const Tensor& other, const Tensor& one_numbers, const Tensor& other_numbers, bool last) {
  const Program one_program(one_numbers), other_program(other_numbers);
  const int64_t in = channels_of(one_program, one, last), given = channels_of(other_program, other, last);
  const int64_t steps = one_program.steps.size(), out = rounded_up(given, LANES);
  for (int axis = 0; axis < 3; axis++)
    STD_TORCH_CHECK(one_program.axes[axis].count == other_program.axes[axis].count, "the programs differ in positions");
  STD_TORCH_CHECK(other_program.steps.size() == one_program.steps.size() && one.size(0) == other.size(0),
                  "the programs differ in steps, or the tensors in images");
  const float *p1 = floats(one, "one"), *p2 = floats(other, "other");

  // Rows of many channels would lie a power of two apart in memory, and drive each other out of the cache.
  const auto apart = [](int64_t channels) { return channels >= 128 && channels % 64 == 0 ? channels + 16 : channels; };
  const int64_t one_step = apart(in), other_step = apart(out);
  const auto floats_of = [](const Program& program, int64_t channels) {
    return static_cast<int64_t>(program.axes[0].kinds.size() * program.axes[1].kinds.size() *
                                program.axes[2].kinds.size()) *
           channels;
  };
  const Tiles tiles(one_program, one.size(0), floats_of(one_program, in) + floats_of(other_program, out), POSITIONS);
  // Each part is summed by one thread, in the same order every time.
  const int64_t parts = std::min<int64_t>(tiles.size(), torch::stable::get_num_threads());
  Tensor output = torch::stable::new_zeros(one, {parts, steps, in, out});
  float* py = static_cast<float*>(output.mutable_data_ptr());
  in_parallel(parts, one.size(0) * positions_of(one_program) * in * out * steps, [&](int64_t begin, int64_t end) {
    Rows one_rows(one_program, in, one_step, last), other_rows(other_program, given, other_step, last);
    std::vector<const float*> ones(one_program.axes[1].count), others(ones.size());
    for (int64_t part = begin; part < end; part++)
      for (int64_t t = tiles.size() * part / parts; t < tiles.size() * (part + 1) / parts; t++) {
        const Tile tile = tiles[t];
        one_rows.read(p1, tile);
        other_rows.read(p2, tile);
        for (int64_t s = 0; s < steps; s++) {
          for (int64_t row = 0; row < tile.rows; row++) {
            ones[row] = one_rows.at(one_program.steps[s], row, 0);
            others[row] = other_rows.at(other_program.steps[s], row, 0);
          }
          for (int64_t o = 0; o < out; o += BLOCK)
            in_blocks(in, [&](int64_t c, int64_t count) {
              const auto cross_block = cross_rows_of(count, std::min<int64_t>(WIDE, (out - o) / LANES));
              float* to = py + ((part * steps + s) * in + c) * out + o;
              cross_block(ones.data(), c, one_step, others.data(), o, other_step, tile.rows, tile.columns, to, out);
            });
        }
      }
  });
  return output;
}

}  // namespace halfstride

STABLE_TORCH_LIBRARY_FRAGMENT(halfstride_kernels, m) {
  m.def("pack(Tensor kernels) -> Tensor");
  m.def("run(Tensor input, Tensor kernels, Tensor? bias, Tensor program, int out, bool last) -> Tensor");
  m.def("cross(Tensor one, Tensor other, Tensor one_program, Tensor other_program, bool last) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(halfstride_kernels, CPU, m) {
  m.impl("pack", TORCH_BOX(&halfstride::pack));
  m.impl("run", TORCH_BOX(&halfstride::run));
  m.impl("cross", TORCH_BOX(&halfstride::cross));
}
