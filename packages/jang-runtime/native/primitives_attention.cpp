// Attention of grouped queries over a cache of keys and values.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "primitives.h"
#include "threads.h"

namespace jang {

namespace {

constexpr int kShortestSplit = 256;  // keys that are worth another thread's while

// An array [batch, heads, length, size] by strides; the last axis is contiguous.
struct Heads {
  const float* values;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t stride;

  const float* row(int64_t batch, int64_t head, int64_t position) const {
    return values + batch * batch_stride + head * head_stride + position * stride;
  }
};

Heads heads_of(const mx::array& x) {
  return {x.data<float>(), x.strides(0), x.strides(1), x.strides(2)};
}

// A mask [batch, heads, length, positions] by strides, 0 where it is broadcast.
struct Mask {
  const float* added = nullptr;
  const uint8_t* shown = nullptr;
  int64_t strides[4] = {0, 0, 0, 0};

  int64_t offset(int64_t batch, int64_t head, int64_t step) const {
    return batch * strides[0] + head * strides[1] + step * strides[2];
  }
};

struct Problem {
  int batch, heads, key_heads, length, positions, query_size, value_size;
  float scale;
  bool causal;
  Heads queries, keys, values;
  Mask mask;
  const float* sinks;  // [heads]
  float* out;          // [batch, length, heads, value_size]

  int repeat() const { return heads / key_heads; }
  int rows() const { return repeat() * length; }  // of the queries of one key head
};

// What one task keeps of its rows; several tasks share the keys of a row when these are many.
struct Partial {
  std::vector<float> output;
  std::vector<float> largest;
  std::vector<float> total;
};

// Row r of a key head's queries is step r % length of head r / length.
void attend(const Problem& p, int64_t batch, int64_t key_head, int first, int rows, int begin,
            int end, Partial& partial) {
  std::vector<float> queries(static_cast<size_t>(rows) * p.query_size);
  std::vector<float> scratch(static_cast<size_t>(rows) * kKeyTile);
  std::vector<int> limits(static_cast<size_t>(rows));
  std::vector<const float*> added(static_cast<size_t>(rows));
  std::vector<const uint8_t*> shown(static_cast<size_t>(rows));
  for (int r = 0; r < rows; ++r) {
    const int64_t head = key_head * p.repeat() + (first + r) / p.length;
    const int step = (first + r) % p.length;
    const float* query = p.queries.row(batch, head, step);
    for (int i = 0; i < p.query_size; ++i) queries[r * p.query_size + i] = query[i] * p.scale;
    limits[r] = p.causal ? p.positions - p.length + step + 1 : p.positions;
    const int64_t offset = p.mask.offset(batch, head, step);
    if (p.mask.added != nullptr) added[r] = p.mask.added + offset;
    if (p.mask.shown != nullptr) shown[r] = p.mask.shown + offset;
  }
  partial.output.assign(static_cast<size_t>(rows) * p.value_size, 0.0f);
  partial.largest.assign(static_cast<size_t>(rows), -std::numeric_limits<float>::infinity());
  partial.total.assign(static_cast<size_t>(rows), 0.0f);
  kernels().attention({
      .queries = queries.data(),
      .rows = rows,
      .query_size = p.query_size,
      .value_size = p.value_size,
      .keys = p.keys.row(batch, key_head, 0),
      .key_stride = p.keys.stride,
      .values = p.values.row(batch, key_head, 0),
      .value_stride = p.values.stride,
      .begin = begin,
      .end = end,
      .limits = limits.data(),
      .bias_rows = p.mask.added != nullptr ? added.data() : nullptr,
      .shown_rows = p.mask.shown != nullptr ? shown.data() : nullptr,
      .mask_stride = p.mask.strides[3],
      .output = partial.output.data(),
      .largest = partial.largest.data(),
      .total = partial.total.data(),
      .scratch = scratch.data(),
  });
}

// Joins the parts of a row's keys, and a sink, which takes weight and gives nothing.
void finish(const Problem& p, int64_t batch, int64_t key_head, int first, int rows,
            const Partial* parts, int count) {
  for (int r = 0; r < rows; ++r) {
    const int64_t head = key_head * p.repeat() + (first + r) / p.length;
    const int64_t step = (first + r) % p.length;
    float largest = p.sinks != nullptr ? p.sinks[head] : -std::numeric_limits<float>::infinity();
    for (int i = 0; i < count; ++i) largest = std::max(largest, parts[i].largest[r]);
    float total = p.sinks != nullptr ? std::exp(p.sinks[head] - largest) : 0.0f;
    float* out = p.out + ((batch * p.length + step) * p.heads + head) * p.value_size;
    std::fill(out, out + p.value_size, 0.0f);
    for (int i = 0; i < count; ++i) {
      const float weight = std::exp(parts[i].largest[r] - largest);
      // A part whose keys none of its rows may see has seen nothing.
      if (!(weight > 0)) continue;
      total += weight * parts[i].total[r];
      const float* output = parts[i].output.data() + int64_t{r} * p.value_size;
      for (int k = 0; k < p.value_size; ++k) out[k] += weight * output[k];
    }
    const float factor = 1.0f / total;
    for (int k = 0; k < p.value_size; ++k) out[k] *= factor;
  }
}

void solve(const Problem& p) {
  const int blocks = (p.rows() + kAttentionRows - 1) / kAttentionRows;
  const int64_t groups = int64_t{p.batch} * p.key_heads * blocks;
  const int64_t idle = 2 * thread_count() / std::max<int64_t>(1, groups);
  const int parts = static_cast<int>(
      std::clamp<int64_t>(std::min<int64_t>(idle, p.positions / kShortestSplit), 1, 64));
  std::vector<Partial> partials(static_cast<size_t>(groups * parts));
  const auto place = [&](int64_t group, auto function) {
    const int first = static_cast<int>(group % blocks) * kAttentionRows;
    const int64_t pair = group / blocks;
    function(pair / p.key_heads, pair % p.key_heads, first,
             std::min(kAttentionRows, p.rows() - first));
  };
  parallel_for(groups * parts, [&](int64_t task) {
    const int64_t part = task % parts;
    place(task / parts, [&](int64_t batch, int64_t key_head, int first, int rows) {
      attend(p, batch, key_head, first, rows, static_cast<int>(p.positions * part / parts),
             static_cast<int>(p.positions * (part + 1) / parts), partials[task]);
      if (parts == 1) finish(p, batch, key_head, first, rows, &partials[task], 1);
    });
  });
  if (parts == 1) return;
  for (int64_t group = 0; group < groups; ++group) {
    place(group, [&](int64_t batch, int64_t key_head, int first, int rows) {
      finish(p, batch, key_head, first, rows, &partials[group * parts], parts);
    });
  }
}

class Attention : public CpuPrimitive {
 public:
  Attention(mx::Stream stream, float scale, bool causal, bool has_mask, bool has_sinks)
      : CpuPrimitive(stream), scale_(scale), causal_(causal), has_mask_(has_mask),
        has_sinks_(has_sinks) {}
  DEFINE_NAME(JangAttention)

  // Inputs are queries, keys, values, and perhaps a mask and sinks.
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    const mx::array queries = rows_contiguous(inputs[0]);
    const mx::array keys = rows_contiguous(inputs[1]);
    const mx::array values = rows_contiguous(inputs[2]);
    allocate_by_step(out);
    Problem p{
        .batch = queries.shape(0),
        .heads = queries.shape(1),
        .key_heads = keys.shape(1),
        .length = queries.shape(2),
        .positions = keys.shape(2),
        .query_size = queries.shape(3),
        .value_size = values.shape(3),
        .scale = scale_,
        .causal = causal_,
        .queries = heads_of(queries),
        .keys = heads_of(keys),
        .values = heads_of(values),
        .mask = has_mask_ ? mask_of(inputs[3]) : Mask{},
        .sinks = nullptr,
        .out = out.data<float>(),
    };
    if (has_sinks_) p.sinks = row_contiguous(inputs.back(), stream()).data<float>();
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.set_output_array(out);
    encoder.dispatch([p] { solve(p); });
  }

 private:
  mx::array rows_contiguous(const mx::array& x) {
    return x.strides(-1) == 1 || x.shape(-1) == 1 ? x : row_contiguous(x, stream());
  }

  // [batch, heads, length, size] that lies as [batch, length, heads, size]: models transpose it so.
  static void allocate_by_step(mx::array& out) {
    const int64_t heads = out.shape(1);
    const int64_t length = out.shape(2);
    const int64_t size = out.shape(3);
    const bool in_order = heads == 1 || length == 1;
    const mx::array::Flags flags{.contiguous = true, .row_contiguous = in_order,
                                 .col_contiguous = false};
    out.set_data(mx::allocator::malloc(out.nbytes()), out.size(),
                 {length * heads * size, size, heads * size, 1}, flags);
  }

  static Mask mask_of(const mx::array& mask) {
    Mask result;
    if (mask.dtype() == mx::bool_) {
      result.shown = reinterpret_cast<const uint8_t*>(mask.data<bool>());
    } else {
      result.added = mask.data<float>();
    }
    const int missing = 4 - static_cast<int>(mask.ndim());
    for (int axis = missing; axis < 4; ++axis) {
      if (mask.shape(axis - missing) > 1) result.strides[axis] = mask.strides(axis - missing);
    }
    return result;
  }

  float scale_;
  bool causal_;
  bool has_mask_;
  bool has_sinks_;
};

void expect_heads(const std::string& name, const mx::array& x) {
  expect(x.dtype() == mx::float32 && x.ndim() == 4 && x.size() > 0, name, x,
         "float32 [batch, heads, length, size]");
}

void expect_mask(const mx::array& mask, const mx::Shape& scores) {
  bool fits = mask.ndim() <= 4;
  for (int axis = 1; fits && axis <= static_cast<int>(mask.ndim()); ++axis) {
    fits = mask.shape(-axis) == 1 || mask.shape(-axis) == scores[4 - axis];
  }
  expect(fits, "mask", mask, "a shape that broadcasts to [batch, heads, length, positions]");
}

}  // namespace

mx::array attention(const mx::array& queries, const mx::array& keys, const mx::array& values,
                    float scale, bool causal, const std::optional<mx::array>& mask,
                    const std::optional<mx::array>& sinks) {
  expect_heads("queries", queries);
  expect_heads("keys", keys);
  expect_heads("values", values);
  expect(keys.shape(0) == queries.shape(0) && queries.shape(1) % keys.shape(1) == 0 &&
             keys.shape(3) == queries.shape(3),
         "keys", keys, "batch and size of the queries, and heads that divide theirs");
  expect(values.shape(0) == keys.shape(0) && values.shape(1) == keys.shape(1) &&
             values.shape(2) == keys.shape(2),
         "values", values, "batch, heads and length of the keys");
  const mx::Stream stream = cpu_stream();
  std::vector<mx::array> inputs{queries, keys, values};
  if (mask) {
    expect_mask(*mask, {queries.shape(0), queries.shape(1), queries.shape(2), keys.shape(2)});
    inputs.push_back(mask->dtype() == mx::bool_ ? *mask : mx::astype(*mask, mx::float32, stream));
  }
  if (sinks) {
    expect(sinks->ndim() == 1 && sinks->shape(0) == queries.shape(1), "sinks", *sinks, "[heads]");
    inputs.push_back(mx::astype(*sinks, mx::float32, stream));
  }
  const mx::Shape shape{queries.shape(0), queries.shape(1), queries.shape(2), values.shape(3)};
  return mx::array(shape, mx::float32,
                   std::make_shared<Attention>(stream, scale, causal, mask.has_value(),
                                               sinks.has_value()),
                   std::move(inputs));
}

}  // namespace jang
