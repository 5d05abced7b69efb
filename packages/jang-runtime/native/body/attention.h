// Attention with the softmax computed as keys come (Milakov and Gimelshein 2018, arXiv 1805.02867;
// tiles of keys as in FlashAttention, arXiv 2205.14135).
#pragma once

#include <algorithm>
#include <limits>

#include "body/functions.h"
#include "body/tiles.h"

namespace jang::JANG_ISA {

// A hidden key's score. Not minus infinity: where all keys of a row are hidden, as in padding,
// their mean comes out instead of NaN, as MLX does it.
constexpr float kHidden = std::numeric_limits<float>::lowest();

inline void mask_scores(const AttentionTask& task, int row, int begin, int end, float* scores) {
  if (task.bias_rows != nullptr) {
    const float* bias = task.bias_rows[row];
    for (int s = begin; s < end; ++s) scores[s - begin] += bias[s * task.mask_stride];
  }
  if (task.shown_rows != nullptr) {
    const uint8_t* shown = task.shown_rows[row];
    for (int s = begin; s < end; ++s) {
      if (!shown[s * task.mask_stride]) scores[s - begin] = kHidden;
    }
  }
  for (int s = std::max(begin, task.limits[row]); s < end; ++s) scores[s - begin] = kHidden;
}

// Scores to weights against the largest score so far; what was summed before is scaled down.
inline void weigh(const AttentionTask& task, int row, int count, float* scores) {
  const float top = std::max(task.largest[row], largest_of(scores, count));
  float* output = task.output + int64_t{row} * task.value_size;
  if (top > task.largest[row]) {
    float before;
    store_some(&before, exponential(broadcast(task.largest[row] - top)), 1);
    task.total[row] *= before;
    const Vec factor = broadcast(before);
    over(task.value_size, output, [=](auto at) { return mul(at(output), factor); });
    task.largest[row] = top;
  }
  task.total[row] += shifted_exponentials(scores, top, count, scores);
}

inline void attention(const AttentionTask& task) {
  const int furthest = *std::max_element(task.limits, task.limits + task.rows);
  // Rows that see nothing still take the mean of all keys.
  const int nearest = *std::min_element(task.limits, task.limits + task.rows);
  const int end = nearest <= 0 ? task.end : std::min(task.end, furthest);
  for (int begin = task.begin; begin < end; begin += kKeyTile) {
    const int count = std::min(kKeyTile, end - begin);
    tile_dots(task.queries, task.query_size, task.rows, task.keys + begin * task.key_stride,
              task.key_stride, count, task.query_size, task.scratch, kKeyTile);
    for (int row = 0; row < task.rows; ++row) {
      float* scores = task.scratch + row * kKeyTile;
      mask_scores(task, row, begin, begin + count, scores);
      weigh(task, row, count, scores);
    }
    tile_sums(task.scratch, kKeyTile, task.rows, task.values + begin * task.value_stride,
              task.value_stride, count, task.value_size, task.output, task.value_size);
  }
}

}  // namespace jang::JANG_ISA
