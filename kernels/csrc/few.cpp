// Transposed convolutions to few output channels, with neighbouring positions in a vector in place of channels.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "common.h"
#include "vectors.h"

namespace halfstride {

namespace {

constexpr int MOST = 4;              // output channels
constexpr int64_t CACHE = 1 << 16;   // floats of a tile: a quarter of a MiB
constexpr int SUMS = REGISTERS - 6;  // registers for sums

// A phase of the outputs: the taps that reach it, by where their values are from the position on.
struct Phase {
  std::vector<int64_t> offsets;
  const float* weights;  // (in, taps, OUT)
};

// sums[o][n] over input channels and taps of weights * values, for OUT channels and N vectors of positions.
template <int OUT, int N>
__attribute__((noinline)) void sum_taps(const float* values, int64_t channel_step, int64_t channels, const Phase& phase,
                                        const float* bias, float* to, int64_t to_step) {
  Vector sums[OUT * N];
  unrolled<OUT>(EACH(o) { unrolled<N>(EACH(n) { sums[o * N + n] = broadcast(bias + o); }); });
  const float* weight = phase.weights;
  const int64_t taps = phase.offsets.size();
  for (int64_t c = 0; c < channels; c++, values += channel_step)
    for (int64_t t = 0; t < taps; t++, weight += OUT) {
      const float* from = values + phase.offsets[t];
      Vector value[N];
      unrolled<N>(EACH(n) { value[n] = load(from + n * LANES); });
      unrolled<OUT>(EACH(o) {
        const Vector factor = broadcast(weight + o);
        unrolled<N>(EACH(n) { sums[o * N + n] += factor * value[n]; });
      });
    }
  unrolled<OUT>(EACH(o) { unrolled<N>(EACH(n) { store(to + o * to_step + n * LANES, sums[o * N + n]); }); });
}

// All positions of a tile: in blocks of as many vectors as the registers hold, the rest by two or one.
template <int OUT>
void sum_phase(const float* values, int64_t channel_step, int64_t channels, const Phase& phase, const float* bias,
               int64_t vectors, float* to, int64_t to_step) {
  constexpr int N = OUT == 1 ? 8 : SUMS / OUT > 4 ? 4 : SUMS / OUT;
  int64_t v = 0;
  for (; v + N <= vectors; v += N)
    sum_taps<OUT, N>(values + v * LANES, channel_step, channels, phase, bias, to + v * LANES, to_step);
  for (; v + 2 <= vectors; v += 2)
    sum_taps<OUT, 2>(values + v * LANES, channel_step, channels, phase, bias, to + v * LANES, to_step);
  for (; v < vectors; v++)
    sum_taps<OUT, 1>(values + v * LANES, channel_step, channels, phase, bias, to + v * LANES, to_step);
}

constexpr decltype(&sum_phase<1>) SUM_PHASE[MOST] = {&sum_phase<1>, &sum_phase<2>, &sum_phase<3>, &sum_phase<4>};

INLINE void copy(const float* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(to + i, load(from + i));
  for (; i < count; i++) to[i] = from[i];
}

// An axis of a transposed convolution.
struct Line {
  int64_t size, output_size, taps, stride, padding;
  int64_t lo() const { return -((taps - 1) / stride); }  // the farthest input before a position that reaches its outputs
  // Outputs are phases r of positions q, stride * q + r - padding.
  int64_t first() const { return padding / stride; }
  int64_t count() const { return (output_size - 1 + padding) / stride + 1 - first(); }
};

}  // namespace

// input (images, in, *size) or, with `last`, (images, *size, in), of one to three axes; weight (in, out, *taps);
// bias (out,); numbers: output size, stride and padding of each axis -> output in the same order as the input.
Tensor few_outputs(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias, const Tensor& numbers,
                   bool last) {
  const int64_t axes = weight.dim() - 2;
  STD_TORCH_CHECK(axes >= 1 && axes <= 3 && numbers.numel() == 3 * axes && input.dim() == axes + 2,
                  "the sizes do not fit");
  const int64_t* next = static_cast<const int64_t*>(numbers.data_ptr());
  const int64_t images = input.size(0), in = weight.size(0), out = weight.size(1);
  Line lines[3] = {{1, 1, 1, 1, 0}, {1, 1, 1, 1, 0}, {1, 1, 1, 1, 0}};
  std::vector<int64_t> shape{images};
  for (int64_t i = 0; i < axes; i++, next += 3) {
    lines[3 - axes + i] = {input.size(i + (last ? 1 : 2)), next[0], weight.size(i + 2), next[1], next[2]};
    shape.push_back(next[0]);
  }
  shape.insert(last ? shape.end() : shape.begin() + 1, out);
  const auto [z, y, x] = lines;
  STD_TORCH_CHECK(input.size(last ? axes + 1 : 1) == in && out >= 1 && out <= MOST,
                  "there must be as many input channels as the weight has, and 1 to ", MOST, " output channels");
  const float *px = floats(input, "input"), *pw = floats(weight, "weight"), zeros[MOST] = {};
  const float* pb = bias ? floats(*bias, "bias") : zeros;
  Tensor output = torch::stable::new_empty(input, shape);
  float* py = static_cast<float*>(output.mutable_data_ptr());

  // A tile: rows of one depth, with what reaches it from before, each row padded.
  const int64_t wide = x.count() - x.lo(), deep = 1 - z.lo();
  int64_t rows = std::max<int64_t>(CACHE / (in * wide * deep) + y.lo(), 1);
  const int64_t wanted = TILES_PER_THREAD * torch::stable::get_num_threads(), depths = z.count();
  rows = std::min(rows, std::max<int64_t>(y.count() * depths * images / wanted, 1));
  const int64_t row_tiles = divided_up(y.count(), rows);
  rows = divided_up(y.count(), row_tiles);
  const int64_t high = rows - y.lo();
  const int64_t plane = high * wide, channel = deep * plane + 8 * LANES;  // what the last vector reads beyond

  // The weights of each phase, and where its values are.
  std::vector<float> packed(weight.numel());
  std::vector<Phase> phases;
  float* place = packed.data();
  for (int64_t a = 0; a < z.stride; a++)
    for (int64_t b = 0; b < y.stride; b++)
      for (int64_t c = 0; c < x.stride; c++) {
        Phase phase{{}, place};
        std::vector<int64_t> taps;
        for (int64_t i = a; i < z.taps; i += z.stride)
          for (int64_t j = b; j < y.taps; j += y.stride)
            for (int64_t k = c; k < x.taps; k += x.stride) {
              taps.push_back((i * y.taps + j) * x.taps + k);
              phase.offsets.push_back((-z.lo() - i / z.stride) * plane + (-y.lo() - j / y.stride) * wide - x.lo() -
                                      k / x.stride);
            }
        for (int64_t channel = 0; channel < in; channel++)
          for (int64_t tap : taps)
            for (int64_t o = 0; o < out; o++)
              *place++ = pw[(channel * out + o) * z.taps * y.taps * x.taps + tap];
        phases.push_back(std::move(phase));
      }

  const auto sum = SUM_PHASE[out - 1];
  const auto body = [&](int64_t begin, int64_t end) {
    std::vector<float> values(in * channel, 0.f), sums;
    for (int64_t t = begin; t < end; t++) {
      const int64_t row = t % row_tiles * rows, q = t / row_tiles % depths, image = t / row_tiles / depths;
      const int64_t some = std::min(rows, y.count() - row);
      const int64_t vectors = divided_up(some * wide, LANES), step = vectors * LANES;
      sums.resize(phases.size() * out * step);

      // Read: rows of channels, zero where the input has none.
      const int64_t start = x.first() + x.lo();
      const int64_t from = std::min(std::max<int64_t>(-start, 0), wide);
      const int64_t until = std::max(std::min(wide, x.size - start), from);
      for (int64_t i = 0; i < deep; i++)
        for (int64_t j = 0; j < some - y.lo(); j++) {
          const int64_t a = q + z.first() + z.lo() + i, b = row + y.first() + y.lo() + j;
          float* to = values.data() + i * plane + j * wide;
          const bool exists = a >= 0 && a < z.size && b >= 0 && b < y.size;
          const int64_t begins = exists ? from : 0, ends = exists ? until : 0;
          for (int64_t c = 0; c < in; c++) {
            for (int64_t p = 0; p < begins; p++) to[c * channel + p] = 0.f;
            for (int64_t p = ends; p < wide; p++) to[c * channel + p] = 0.f;
          }
          if (!exists) continue;
          if (last)
            transpose(px + (((image * z.size + a) * y.size + b) * x.size + start + from) * in, in, until - from, in,
                      to + from, channel);
          else
            for (int64_t c = 0; c < in; c++)
              copy(px + (((image * in + c) * z.size + a) * y.size + b) * x.size + start + from, until - from,
                   to + c * channel + from);
        }

      for (size_t p = 0; p < phases.size(); p++)
        sum(values.data(), channel, in, phases[p], pb, vectors, sums.data() + p * out * step, step);

      // Write: the phases of a row in turn.
      for (int64_t a = 0; a < z.stride; a++) {
        const int64_t depth = z.stride * (q + z.first()) + a - z.padding;
        if (depth < 0 || depth >= z.output_size) continue;
        for (int64_t j = 0; j < some; j++)
          for (int64_t b = 0; b < y.stride; b++) {
            const int64_t line = y.stride * (row + j + y.first()) + b - y.padding;
            if (line < 0 || line >= y.output_size) continue;
            for (int64_t o = 0; o < out; o++) {
              const float* source = sums.data() + ((a * y.stride + b) * x.stride * out + o) * step + j * wide;
              const int64_t apart = last ? out : 1, start = x.stride * x.first() - x.padding;
              float* to = last ? py + ((image * z.output_size + depth) * y.output_size + line) * x.output_size * out + o
                               : py + (((image * out + o) * z.output_size + depth) * y.output_size + line) * x.output_size;
              for (int64_t c = 0; c < x.stride; c++, source += out * step) {
                const int64_t from = std::max<int64_t>((x.stride - 1 - start - c) / x.stride, 0);
                const int64_t until = std::min(x.count(), (x.output_size - start - c + x.stride - 1) / x.stride);
                float* place = to + (start + c) * apart;
                for (int64_t i = from; i < until; i++) place[i * x.stride * apart] = source[i];
              }
            }
          }
      }
    }
  };
  const int64_t products = images * depths * y.count() * x.count() * weight.numel();
  in_parallel(images * depths * row_tiles, products, body);
  return output;
}

}  // namespace halfstride

STABLE_TORCH_LIBRARY_FRAGMENT(halfstride_kernels, m) {
  m.def("few_outputs(Tensor input, Tensor weight, Tensor? bias, Tensor sizes, bool last) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(halfstride_kernels, CPU, m) { m.impl("few_outputs", TORCH_BOX(&halfstride::few_outputs)); }
