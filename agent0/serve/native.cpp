// One forward pass of a Llama-family decoder on a CPU: int8 weights in groups, float activations, LoRA unmerged.
//
// Rows are tokens of any number of sequences, prompts and single tokens mixed; they lie side by side, so that each
// weight is read from memory once a pass. All threads walk through the pass together and wait for each other between
// its phases (the end of each "omp for").
//
// Matrices of weights lie as they are read: (out / OUTPUTS, in / LANES, OUTPUTS, LANES), their scales (out / OUTPUTS,
// in / group, OUTPUTS). All else is row-major, the dimension that is summed over last.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 8, OUTPUTS = 4, ROWS = 3;  // a tile of OUTPUTS * ROWS sums stays in registers
constexpr int DIRECT = 4;  // up to so many rows, weights are made floats for each tile, beyond once for all
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef uint16_t Half;  // bfloat16: the upper half of a float

}  // namespace

extern "C" {

struct Linear {
    const int8_t* weight;  // (out, in), tiled
    const float* scale;    // (out, in / group), tiled
    const float* bias;     // (out) or null
    int64_t out, in, group;
};

struct Lora {        // of one fused linear, whose outputs are `parts` linears one after the other
    const Half* a;   // (parts * rank, in), tiled; null where the adapter leaves this linear alone
    const Half* b;   // (out, rank), its scale multiplied in
    int64_t rank;    // a multiple of LANES
    int64_t ends[3];  // the output at which each part ends
};

struct Layer {
    Linear qkv, o, gate_up, down;
    const float *input_norm, *post_norm, *qk_norm;  // qk_norm: (heads + kv heads, head size) or null
};

struct Model {
    int64_t layers, hidden, heads, kv_heads, head_size, inner;
    float epsilon;
    const Layer* layer;
    const float *embedding, *norm, *cos, *sin;  // cos, sin: (context, head size); sin carries rotate_half's sign
    Linear head;
};

struct Row {
    int64_t token, position, capacity;
    float* cache;      // (layers, 2 * kv heads, capacity, head size), keys first
    const Lora* lora;  // (layers, 4) or null
    int64_t wanted;    // whether its logits are
};

}  // extern "C"

namespace {

inline Lanes load(const float* p) { return *reinterpret_cast<const Lanes*>(p); }
#ifdef __AVX2__  // GCC 12 would convert bytes one at a time
inline Lanes load(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline Lanes load(const Half* p) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
#else
inline Lanes load(const int8_t* p) { return __builtin_convertvector(*reinterpret_cast<const Bytes*>(p), Lanes); }
inline Lanes load(const Half* p) {
    uint32_t bits[LANES];
    for (int i = 0; i < LANES; i++) bits[i] = static_cast<uint32_t>(p[i]) << 16;
    return load(reinterpret_cast<const float*>(bits));
}
#endif

inline float sum(Lanes v) {
    float s = 0;
    for (int i = 0; i < LANES; i++) s += v[i];
    return s;
}

// acc[o][m] += weight[o] . x[m] over `in` for the OUTPUTS rows of a tile; a group of weights shares a scale (null: none)
template <int M, class W>
inline void dots(Lanes (&acc)[OUTPUTS][M], const W* weight, const float* scale, int64_t in, int64_t group,
                 const float* x, int64_t width) {
    for (int64_t start = 0; start < in; start += group) {
        float s[OUTPUTS];
        for (int o = 0; o < OUTPUTS; o++) s[o] = scale ? *scale++ : 1;
        for (int64_t k = start; k < start + group; k += LANES) {
            Lanes v[M];
            for (int m = 0; m < M; m++) v[m] = load(x + m * width + k);
            for (int o = 0; o < OUTPUTS; o++) {
                Lanes w = load(weight + k * OUTPUTS + o * LANES);
                if (scale) w *= s[o];
#ifdef __AVX2__
                asm("" : "+x"(w));  // keep it in a register: else it is loaded again for each row
#endif
                for (int m = 0; m < M; m++) acc[o][m] += w * v[m];
            }
        }
    }
}

struct Run {  // neighbouring rows on one LoRA
    int64_t first, stop;
    const Lora* lora;
};

struct Pass {
    const Model& model;
    const Row* row;
    int64_t rows;
    std::vector<Run> runs;
    std::vector<float> x, normed, wide, mixed, low;  // (rows, hidden | hidden | widest linear | heads or inner | ranks)

    int64_t low_width = 0;

    Pass(const Model& model, const Row* row, int64_t rows) : model(model), row(row), rows(rows) {
        for (int64_t n = 0; n < rows; n++) {
            if (runs.empty() || runs.back().lora != row[n].lora) runs.push_back({n, n, row[n].lora});
            runs.back().stop = n + 1;
            for (int64_t i = 0; row[n].lora && i < 4 * model.layers; i++)
                low_width = std::max(low_width, 3 * row[n].lora[i].rank);
        }
        const int64_t attended = model.heads * model.head_size;
        x.resize(rows * model.hidden);
        normed.resize(rows * model.hidden);
        wide.resize(rows * std::max(2 * model.inner, attended + 2 * model.kv_heads * model.head_size));
        mixed.resize(rows * std::max(model.inner, attended));
        low.resize(rows * low_width);
    }

    const Lora* adapter(const Run& run, int64_t slot) const {
        return run.lora && run.lora[slot].a ? run.lora + slot : nullptr;
    }

    template <int M, class W>
    void tile(const W* weight, const float* scale, const Linear& linear, int64_t o, const Lora* lora, int64_t n,
              const float* in, float* out, bool add) {
        Lanes acc[OUTPUTS][M] = {};
        dots<M>(acc, weight, scale, linear.in, linear.group, in + n * linear.in, linear.in);
        for (int i = 0; i < OUTPUTS; i++) {
            int part = 0;
            while (lora && o + i >= lora->ends[part]) part++;
            for (int64_t k = 0; lora && k < lora->rank; k += LANES) {
                const Lanes b = load(lora->b + (o + i) * lora->rank + k);
                const float* of = &low[n * low_width + part * lora->rank + k];
                for (int m = 0; m < M; m++) acc[i][m] += load(of + m * low_width) * b;
            }
            for (int m = 0; m < M; m++) {
                float* y = out + (n + m) * linear.out + o + i;
                *y = sum(acc[i][m]) + (linear.bias ? linear.bias[o + i] : 0) + (add ? *y : 0);
            }
        }
    }

    template <class W>
    void tiles(const W* weight, const float* scale, const Linear& linear, int64_t o, int64_t slot, const float* in,
               float* out, bool add) {
        for (const Run& run : runs) {
            const Lora* lora = slot < 0 ? nullptr : adapter(run, slot);
            int64_t n = run.first;
            for (; run.stop - n >= ROWS && run.stop - n != 4; n += ROWS)
                tile<ROWS>(weight, scale, linear, o, lora, n, in, out, add);
            for (; run.stop - n >= 2; n += 2) tile<2>(weight, scale, linear, o, lora, n, in, out, add);
            if (n < run.stop) tile<1>(weight, scale, linear, o, lora, n, in, out, add);
        }
    }

    // out (rows, linear.out) = in (rows, linear.in) @ weight.T + bias + LoRA; added to what is there where `add`.
    // slot: 4 * layer + the linear's number in it, or -1 where no LoRA can be.
    void apply(const Linear& linear, int64_t slot, const float* in, float* out, bool add) {
        if (slot >= 0) lower(linear, slot, in);
        std::vector<float> weight(rows > DIRECT ? OUTPUTS * linear.in : 0);  // each thread has its own
        const int64_t blocks = linear.out / OUTPUTS;
#pragma omp for schedule(dynamic, 8)
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t o = block * OUTPUTS;
            const int8_t* bytes = linear.weight + o * linear.in;
            const float* scale = linear.scale + o * (linear.in / linear.group);
            if (rows <= DIRECT) {
                tiles(bytes, scale, linear, o, slot, in, out, add);
                continue;
            }
            float* w = weight.data();
            for (int64_t k = 0; k < linear.in; k += LANES)
                for (int i = 0; i < OUTPUTS; i++, w += LANES, bytes += LANES)
                    *reinterpret_cast<Lanes*>(w) = load(bytes) * scale[k / linear.group * OUTPUTS + i];
            tiles(weight.data(), nullptr, linear, o, slot, in, out, add);
        }
    }

    // low (rows, parts * rank) = in @ a.T, for the runs that have an adapter at this linear
    void lower(const Linear& linear, int64_t slot, const float* in) {
        for (const Run& run : runs) {
            const Lora* lora = adapter(run, slot);
            if (!lora) continue;
            int64_t parts = 1;
            while (lora->ends[parts - 1] < linear.out) parts++;
            const int64_t blocks = parts * lora->rank / OUTPUTS;
#pragma omp for schedule(static)
            for (int64_t block = 0; block < blocks; block++) {
                int64_t n = run.first;
                for (; run.stop - n >= ROWS; n += ROWS) lower_tile<ROWS>(lora, linear, block, n, in);
                for (; n < run.stop; n++) lower_tile<1>(lora, linear, block, n, in);
            }
        }
    }

    template <int M>
    void lower_tile(const Lora* lora, const Linear& linear, int64_t block, int64_t n, const float* in) {
        Lanes acc[OUTPUTS][M] = {};
        dots<M>(acc, lora->a + block * OUTPUTS * linear.in, nullptr, linear.in, linear.in, in + n * linear.in,
                linear.in);
        for (int m = 0; m < M; m++)
            for (int i = 0; i < OUTPUTS; i++) low[(n + m) * low_width + block * OUTPUTS + i] = sum(acc[i][m]);
    }

    // out = in / rms(in) * weight
    void rms(const float* in, const float* weight, int64_t width, float* out) const {
        float square = 0;
        for (int64_t k = 0; k < width; k++) square += in[k] * in[k];
        const float scale = 1 / std::sqrt(square / width + model.epsilon);
        for (int64_t k = 0; k < width; k++) out[k] = in[k] * scale * weight[k];
    }

    void norm(const float* weight) {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < rows; n++) rms(&x[n * model.hidden], weight, model.hidden, &normed[n * model.hidden]);
    }

    // rotate queries and keys by position; append keys and values to the caches
    void rotate(int64_t index) {
        const int64_t size = model.head_size, count = model.heads + 2 * model.kv_heads, half = size / 2;
        const float* weight = model.layer[index].qk_norm;
#pragma omp for collapse(2) schedule(static)
        for (int64_t n = 0; n < rows; n++)
            for (int64_t h = 0; h < count; h++) {
                float *head = &wide[(n * count + h) * size], turned[size];
                const float *cos = model.cos + row[n].position * size, *sin = model.sin + row[n].position * size;
                const bool value = h >= model.heads + model.kv_heads;
                if (weight && !value) rms(head, weight + h * size, size, head);
                for (int64_t k = 0; k < size && !value; k++)
                    turned[k] = head[k] * cos[k] + head[(k + half) % size] * sin[k];
                if (!value) std::memcpy(head, turned, size * sizeof(float));
                if (h >= model.heads) std::memcpy(cached(n, index, h - model.heads), head, size * sizeof(float));
            }
    }

    // where the cache of row n has the key (head < kv heads) or value of its own position
    float* cached(int64_t n, int64_t index, int64_t head) const {
        const Row& r = row[n];
        return r.cache + ((index * 2 * model.kv_heads + head) * r.capacity + r.position) * model.head_size;
    }

    void attend(int64_t index) {
        const int64_t size = model.head_size, count = model.heads + 2 * model.kv_heads;
        const int64_t shared = model.heads / model.kv_heads;
#pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t n = 0; n < rows; n++)
            for (int64_t h = 0; h < model.heads; h++) {
                const int64_t past = row[n].position;  // keys 0 … past
                const float* keys = cached(n, index, h / shared) - past * size;
                const float* values = cached(n, index, model.kv_heads + h / shared) - past * size;
                attend_head(&wide[(n * count + h) * size], keys, values, past + 1, &mixed[(n * model.heads + h) * size]);
            }
    }

    void attend_head(const float* query, const float* keys, const float* values, int64_t length, float* out) const {
        const int64_t size = model.head_size;
        const float scale = 1 / std::sqrt(static_cast<float>(size));
        std::vector<float> weights(length);
        float top = -INFINITY, total = 0;
        for (int64_t t = 0; t < length; t++) {
            Lanes acc = {};
            for (int64_t k = 0; k < size; k += LANES) acc += load(query + k) * load(keys + t * size + k);
            weights[t] = sum(acc) * scale;
            top = std::max(top, weights[t]);
        }
        for (float& w : weights) total += w = std::exp(w - top);
        std::fill(out, out + size, 0.f);
        for (int64_t t = 0; t < length; t++)
            for (int64_t k = 0; k < size; k++) out[k] += weights[t] / total * values[t * size + k];
    }

    // mixed (rows, inner) = silu(gate) * up
    void activate() {
        const int64_t inner = model.inner;
#pragma omp for collapse(2) schedule(static)
        for (int64_t n = 0; n < rows; n++)
            for (int64_t i = 0; i < inner; i++) {
                const float gate = wide[2 * n * inner + i], up = wide[(2 * n + 1) * inner + i];
                mixed[n * inner + i] = gate / (1 + std::exp(-gate)) * up;
            }
    }

    void layers() {
        for (int64_t i = 0; i < model.layers; i++) {
            const Layer& layer = model.layer[i];
            norm(layer.input_norm);
            apply(layer.qkv, 4 * i, normed.data(), wide.data(), false);
            rotate(i);
            attend(i);
            apply(layer.o, 4 * i + 1, mixed.data(), x.data(), true);
            norm(layer.post_norm);
            apply(layer.gate_up, 4 * i + 2, normed.data(), wide.data(), false);
            activate();
            apply(layer.down, 4 * i + 3, mixed.data(), x.data(), true);
        }
        norm(model.norm);
    }
};

}  // namespace

// Run the rows, append them to their caches, and write the logits of those that want them: (wanted, vocabulary).
extern "C" void forward(const Model* model, const Row* row, int64_t rows, float* logits, int threads) {
    const int64_t hidden = model->hidden;
    Pass pass(*model, row, rows);
    for (int64_t n = 0; n < rows; n++)
        std::memcpy(&pass.x[n * hidden], model->embedding + row[n].token * hidden, hidden * sizeof(float));
#pragma omp parallel num_threads(threads)
    pass.layers();

    int64_t wanted = 0;  // the head sees only these, moved together, without a LoRA
    for (int64_t n = 0; n < rows; n++)
        if (row[n].wanted)
            std::memmove(&pass.normed[wanted++ * hidden], &pass.normed[n * hidden], hidden * sizeof(float));
    pass.rows = wanted;
    pass.runs = {{0, wanted, nullptr}};
#pragma omp parallel num_threads(threads)
    pass.apply(model->head, -1, pass.normed.data(), logits, false);
}
