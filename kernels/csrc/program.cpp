#include "program.h"

#include <cstring>

#include "vectors.h"

namespace halfstride {

namespace {

constexpr int64_t CACHE = 1 << 17;  // floats of a tile's rows: half a MiB
constexpr int64_t FEWEST = 64;      // positions of a tile, so that reading all kernels for it pays

class Numbers {
 public:
  explicit Numbers(const Tensor& tensor)
      : next_(static_cast<const int64_t*>(tensor.data_ptr())), end_(next_ + tensor.numel()) {}
  int64_t operator()() {
    STD_TORCH_CHECK(next_ < end_, "the program is too short");
    return *next_++;
  }

 private:
  const int64_t *next_, *end_;
};

}  // namespace

Program::Program(const Tensor& numbers) {
  STD_TORCH_CHECK(numbers.scalar_type() == torch::headeronly::ScalarType::Long && numbers.is_contiguous(),
                  "the program must be contiguous int64");
  Numbers next(numbers);
  for (Axis& axis : axes) {
    for (int64_t* to : {&axis.size, &axis.stride, &axis.count, &axis.lo, &axis.hi, &axis.output_size, &axis.phases,
                        &axis.skipped})
      *to = next();
    axis.first = axis.last = 0;
    axis.kinds.resize(next());
    for (auto& kind : axis.kinds) {
      kind.resize(next());
      for (Tap& tap : kind) {
        tap.offset = next();
        tap.sign = static_cast<float>(next());
        axis.first = std::min(axis.first, tap.offset);
        axis.last = std::max(axis.last, tap.offset);
      }
    }
  }
  slots = next();
  kernels = next();
  steps.resize(next());
  for (Step& step : steps) {
    for (int axis = 0; axis < 3; axis++) {
      step.kind[axis] = next();
      step.offset[axis] = next();
      STD_TORCH_CHECK(step.kind[axis] >= 0 && step.kind[axis] < static_cast<int64_t>(axes[axis].kinds.size()) &&
                          step.offset[axis] >= axes[axis].lo && step.offset[axis] <= axes[axis].hi,
                      "a step of the program reads beyond what it declares");
    }
    for (int64_t* to : {&step.begin, &step.add, &step.to, &step.kernel}) *to = next();
    const int64_t outputs = axes[0].phases * axes[1].phases * axes[2].phases;
    STD_TORCH_CHECK(step.begin >= 0 && step.begin < slots && step.add >= 0 && step.add < slots && step.to < slots &&
                        step.to >= -outputs && step.kernel >= -1 && step.kernel < kernels,
                    "a step of the program is out of range");
    int64_t phase = std::max<int64_t>(-1 - step.to, 0);
    for (int axis = 2; axis >= 0; axis--) {
      step.phase[axis] = phase % axes[axis].phases;
      phase /= axes[axis].phases;
    }
  }
}

// Tiles ---------------------------------------------------------------------------------------------------------------

Tiles::Tiles(const Program& program, int64_t images, int64_t floats_per_position, int64_t block)
    : images_(images), depths_(program.axes[0].count), height_(program.axes[1].count), width_(program.axes[2].count) {
  const int64_t positions = std::max<int64_t>(CACHE / std::max<int64_t>(floats_per_position, 1), FEWEST);
  const int64_t high = std::min<int64_t>(height_, 8);
  columns_ = std::min(width_, std::max(positions / high / block * block, 2 * block));
  columns_ = divided_up(divided_up(width_, divided_up(width_, columns_)), block) * block;
  rows_ = std::min(height_, std::max<int64_t>(positions / columns_, 1));
  column_tiles_ = divided_up(width_, columns_);
  const int64_t wanted = TILES_PER_THREAD * torch::stable::get_num_threads();
  const int64_t others = images_ * depths_ * column_tiles_;
  row_tiles_ = std::max(divided_up(height_, rows_), std::min(height_, divided_up(wanted, std::max<int64_t>(others, 1))));
  rows_ = divided_up(height_, row_tiles_);
  row_tiles_ = divided_up(height_, rows_);
}

Tile Tiles::operator[](int64_t index) const {
  Tile tile;
  tile.column = index % column_tiles_ * columns_;
  index /= column_tiles_;
  tile.row = index % row_tiles_ * rows_;
  index /= row_tiles_;
  tile.depth = index % depths_;
  tile.image = index / depths_;
  tile.rows = std::min(rows_, height_ - tile.row);
  tile.columns = std::min(columns_, width_ - tile.column);
  return tile;
}

// Rows ----------------------------------------------------------------------------------------------------------------

Rows::Rows(const Program& program, int64_t channels, int64_t padded, bool last)
    : program_(program), channels_(channels), padded_(padded), last_(last) {}

void Rows::add(float* to, const std::vector<std::pair<const float*, float>>& terms, int64_t count) const {
  const auto [a, sa] = terms[0];
  if (terms.size() == 1) {
    for (int64_t i = 0; i < count; i++) to[i] = sa * a[i];
    return;
  }
  const auto [b, sb] = terms[1];
  for (int64_t i = 0; i < count; i++) to[i] = sa * a[i] + sb * b[i];
  for (size_t t = 2; t < terms.size(); t++) {
    const auto [c, sc] = terms[t];
    for (int64_t i = 0; i < count; i++) to[i] += sc * c[i];
  }
}

// All kinds of the last axis of a row of the input.
void Rows::read_row(const float* input, int64_t column, float* to) const {
  const Axis& x = program_.axes[2];
  std::vector<std::pair<const float*, float>> terms;
  for (const auto& kind : x.kinds) {
    // Where all taps lie within the input, and positions are neighbours in memory, they are read at once.
    int64_t from = 0, until = wide_;
    for (const Tap& tap : kind) {
      from = std::max(from, divided_up(-tap.offset, x.stride) - column);
      until = std::min(until, divided_up(x.size - tap.offset, x.stride) - column);
    }
    const bool together = x.stride == 1 && padded_ == channels_ && until > from;
    for (int64_t i = 0; i < wide_;) {
      const int64_t run = together && i == from ? until - from : 1;
      terms.clear();
      for (const Tap& tap : kind) {
        const int64_t at = x.stride * (column + i) + tap.offset;
        if (at >= 0 && at < x.size) terms.emplace_back(input + at * channels_, tap.sign);
      }
      float* place = to + i * padded_;
      if (terms.empty()) {
        std::memset(place, 0, padded_ * sizeof(float));
      } else {
        add(place, terms, run * channels_);
        if (run == 1) std::memset(place + channels_, 0, (padded_ - channels_) * sizeof(float));
      }
      i += run;
    }
    to += wide_ * padded_;
  }
}

void Rows::read(const float* input, const Tile& tile) {
  const Axis *z = program_.axes, *y = z + 1, *x = z + 2;
  rows_ = tile.rows;
  wide_ = tile.columns + x->hi - x->lo;
  const int64_t high = rows_ + y->hi - y->lo, deep = z->hi - z->lo + 1;
  const int64_t kinds_y = y->kinds.size(), kinds_z = z->kinds.size();
  lines_ = kinds_y * high;
  const int64_t length = wide_ * padded_ * static_cast<int64_t>(x->kinds.size());

  // The rows of the input that are read, by kinds of the last axis.
  const int64_t row = y->stride * (tile.row + y->lo) + y->first, depth = z->stride * (tile.depth + z->lo) + z->first;
  const int64_t raw_high = y->stride * (high - 1) + y->last - y->first + 1;
  const int64_t raw_deep = z->stride * (deep - 1) + z->last - z->first + 1;
  raw_.resize(raw_deep * raw_high * length);
  nothing_.assign(length, 0.f);
  const int64_t positions = z->size * y->size * x->size;
  input += tile.image * positions * channels_;
  const auto within = [](const Axis* axis, int64_t at) { return at >= 0 && at < axis->size; };
  const int64_t from = std::max<int64_t>(x->stride * (tile.column + x->lo) + x->first, 0);
  const int64_t until = std::min(x->stride * (tile.column + x->lo + wide_ - 1) + x->last + 1, x->size);
  if (!last_) turned_.resize(std::max<int64_t>(until - from, 0) * channels_);
  for (int64_t i = 0; i < raw_deep; i++)
    for (int64_t j = 0; j < raw_high; j++) {
      if (!within(z, depth + i) || !within(y, row + j)) continue;
      const int64_t at = ((depth + i) * y->size + row + j) * x->size;
      const float* source = input + at * channels_;
      if (!last_ && from < until) {
        transpose(input + at + from, positions, channels_, until - from, turned_.data(), channels_);
        source = turned_.data() - from * channels_;
      }
      read_row(source, tile.column + x->lo, raw_.data() + (i * raw_high + j) * length);
    }

  // Their sums by kinds of the other axes. A kind of a single tap, and what is zero, need no memory.
  summed_.resize(kinds_z * deep * lines_ * length);
  table_.resize(kinds_z * deep * lines_);
  std::vector<std::pair<const float*, float>> terms;
  for (int64_t at = 0; at < static_cast<int64_t>(table_.size()); at++) {
    const int64_t j = at % high, i = at / lines_ % deep;
    terms.clear();
    for (const Tap& one : z->kinds[at / lines_ / deep])
      for (const Tap& other : y->kinds[at / high % kinds_y]) {
        const int64_t a = z->stride * i + one.offset - z->first, b = y->stride * j + other.offset - y->first;
        if (within(z, depth + a) && within(y, row + b))
          terms.emplace_back(raw_.data() + (a * raw_high + b) * length, one.sign * other.sign);
      }
    if (terms.empty()) {
      table_[at] = nothing_.data();
    } else if (terms.size() == 1 && terms[0].second == 1.f) {
      table_[at] = terms[0].first;
    } else {
      add(summed_.data() + at * length, terms, length);
      table_[at] = summed_.data() + at * length;
    }
  }
}

}  // namespace halfstride
