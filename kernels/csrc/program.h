// A linear operator on the positions of an image, written as integers by halfstride/_core/algorithms/by_parts/program.py.
//
// Along each axis the input is read through `kinds`: a kind is a short sum of neighbouring values with signs, such as a
// value itself, the jump from the value before it, or all phases of a gradient. A step multiplies the channels of one
// kind, at an offset, by one kernel, and adds the products to what other steps have left in a slot.
#pragma once
#include <algorithm>
#include <vector>

#include "common.h"

namespace halfstride {

struct Tap {
  int64_t offset;
  float sign;
};

struct Axis {
  int64_t size;    // of the input
  int64_t stride;  // kind q reads the input from position stride * q on
  int64_t count;   // positions q at which outputs are computed
  int64_t lo, hi;  // steps read kinds from q + lo to q + hi
  int64_t output_size, phases, skipped;  // phase r of position q is output phases * q + r - skipped, if there is one
  std::vector<std::vector<Tap>> kinds;
  int64_t first, last;  // the smallest and the largest offset of all taps
};

struct Step {
  int64_t kind[3], offset[3];
  int64_t begin, add, to;  // slots: the sum begins with one, and one is added last; `to`: a slot, or -1 - phase
  int64_t kernel;          // -1: nothing is multiplied
  int64_t phase[3];        // of outputs
};

// Slots that every program has.
constexpr int64_t ZERO = 0, BIAS = 1;

struct Program {
  Axis axes[3];  // depth, height, width
  int64_t slots, kernels;
  std::vector<Step> steps;

  explicit Program(const Tensor& numbers);
};

// A part of the positions of one image: one of depth, some rows, some columns.
struct Tile {
  int64_t image, depth, row, rows, column, columns;
};

// All tiles of a batch, small enough for a core's cache and enough for all threads.
class Tiles {
 public:
  Tiles(const Program& program, int64_t images, int64_t floats_per_position, int64_t block);
  int64_t size() const { return images_ * depths_ * row_tiles_ * column_tiles_; }
  Tile operator[](int64_t index) const;

 private:
  int64_t images_, depths_, height_, width_, rows_, columns_, row_tiles_, column_tiles_;
};

// What the steps read of a tile: for every kind a row of channels for each column.
class Rows {
 public:
  // `padded`: channels of a position in memory, at least as many as the input has; those beyond it are zero.
  // `last`: the input is (images, positions, channels), otherwise (images, channels, positions).
  Rows(const Program& program, int64_t channels, int64_t padded, bool last);
  void read(const float* input, const Tile& tile);

  // Where the channels of a kind are, at a row and a column of the tile, offset by the step's.
  const float* at(const Step& step, int64_t row, int64_t column) const {
    const Axis *z = program_.axes, *y = z + 1, *x = z + 2;
    const int64_t deep = step.kind[0] * (z->hi - z->lo + 1) + step.offset[0] - z->lo;
    const int64_t line = step.kind[1] * (rows_ + y->hi - y->lo) + row + step.offset[1] - y->lo;
    const int64_t place = step.kind[2] * wide_ + column + step.offset[2] - x->lo;
    return table_[deep * lines_ + line] + place * padded_;
  }

 private:
  void read_row(const float* input, int64_t column, float* to) const;
  void add(float* to, const std::vector<std::pair<const float*, float>>& terms, int64_t count) const;

  const Program& program_;
  int64_t channels_, padded_;
  bool last_;
  int64_t rows_ = 0, wide_ = 0, lines_ = 0;
  std::vector<const float*> table_;  // by kind and position of depth, then by kind and row
  std::vector<float> turned_, raw_, summed_, nothing_;
};

}  // namespace halfstride
