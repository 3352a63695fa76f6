// One forward pass of a Llama-family decoder on a CPU: weights in 4 or 8 bits, what a linear reads in 15, LoRA unmerged
// and in floats.
//
// Rows are tokens of any number of sequences, prompts and single tokens mixed; they lie side by side, so that each
// weight is read from memory once a pass. All threads walk through the pass together and wait for each other between
// its phases (the end of each "omp for").
//
// A weight is scale * code + offset, where GROUP neighbours share scale and offset (as in llama.cpp's Q4_1 and Q8_0),
// and so is what it is multiplied by: a group's product is a sum of whole numbers. Where CPUs multiply bytes fastest,
// what is read is high * HALF + low, a byte each: one byte alone would tip one answer in ten of greedy decoding. Matrices are
// cut into tiles of OUTPUTS outputs, as many as a register of this machine holds, which lie as they are read: native.py
// lays them out.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512VNNI__  // AVX512 without it multiplies whole numbers no better than AVX2
constexpr int OUTPUTS = 16;  // of a tile
#else
constexpr int OUTPUTS = 8;
#endif
constexpr int ROWS = 8;  // whose sums stay in registers
constexpr int GROUP = 32, QUAD = 4;  // codes that share a scale; codes that one product takes
constexpr int HALF = 128, TOP = 127 * HALF;  // what a high byte counts; the largest number of both bytes
typedef float Floats __attribute__((vector_size(OUTPUTS * sizeof(float)), aligned(4), may_alias));
typedef int32_t Sums __attribute__((vector_size(OUTPUTS * sizeof(int32_t)), aligned(4), may_alias));
typedef uint8_t Codes __attribute__((vector_size(OUTPUTS * QUAD), aligned(1), may_alias));
typedef uint16_t Words __attribute__((vector_size(OUTPUTS * sizeof(uint16_t)), aligned(2), may_alias));
typedef int32_t Quad __attribute__((aligned(1), may_alias));
typedef int16_t Word __attribute__((aligned(1), may_alias));
typedef _Float16 Half;
struct Brain { uint16_t bits; };  // bfloat16: the upper half of a float

}  // namespace

extern "C" {

int outputs() { return OUTPUTS; }

struct Linear {
    const uint8_t* codes;  // (out / OUTPUTS, groups, GROUP / QUAD, OUTPUTS, QUAD); of 4 bits, two quads share a byte each
    const Half* scale;     // (out / OUTPUTS, groups, OUTPUTS), of 4 bits (.., 2, OUTPUTS): scales, then offsets
    const float* bias;     // (out) or null
    int64_t out, in, bits;  // without the zeros that fill up the last tile and group
};

struct Lora {         // of one fused linear, whose outputs are `parts` linears one after the other
    const Brain* a;   // (parts * rank / OUTPUTS, in, OUTPUTS); null where the adapter leaves this linear alone
    const Brain* b;   // (out / OUTPUTS, rank, OUTPUTS), its scale multiplied in
    int64_t rank, parts;  // of each part, a multiple of OUTPUTS
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
    Half* cache;       // (layers, 2 * kv heads, capacity, head size), keys first
    const Lora* lora;  // (layers, 4) or null
    int64_t wanted;    // whether its logits are
};

}  // extern "C"

namespace {

inline Floats load(const float* p) { return *reinterpret_cast<const Floats*>(p); }
inline int32_t quad(const int8_t* p) { return *reinterpret_cast<const Quad*>(p); }
inline Codes load(const uint8_t* p) { return *reinterpret_cast<const Codes*>(p); }
inline Floats floats(float value) { return value - Floats{}; }

inline Floats load(const Brain* p) {
    return reinterpret_cast<Floats>(
        __builtin_convertvector(*reinterpret_cast<const Words*>(p), Sums) << 16);
}

#if defined(__AVX512VNNI__)  // GCC 12 would convert halves one at a time
inline Floats load(const Half* p) {
    return reinterpret_cast<Floats>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
#elif defined(__F16C__)
inline Floats load(const Half* p) {
    return reinterpret_cast<Floats>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
#else
inline Floats load(const Half* p) {
    Floats v;
    for (int i = 0; i < OUTPUTS; i++) v[i] = p[i];
    return v;
}
#endif

// Adds up products of four codes of each output with four whole numbers, of which `write` laid out a group in two
// halves: all that `add` takes as x, then all that it takes as y.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
struct Products {  // by 16 bits, of which one product takes as many as of two bytes each
    Sums sums = {};
    Sums total() const { return sums; }
    void add(Codes w, int32_t x, int32_t y) {
        const __m256i codes = reinterpret_cast<__m256i>(w);
        const __m256i even = _mm256_and_si256(codes, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(codes, 8);
        sums += reinterpret_cast<Sums>(_mm256_madd_epi16(even, _mm256_set1_epi32(x)));
        sums += reinterpret_cast<Sums>(_mm256_madd_epi16(odd, _mm256_set1_epi32(y)));
    }
    static void write(const int32_t* whole, int8_t* to) {
        for (int k = 0; k < GROUP; k += 2) {
            reinterpret_cast<Word*>(to)[k / 2] = static_cast<int16_t>(whole[k]);
            reinterpret_cast<Word*>(to + GROUP)[k / 2] = static_cast<int16_t>(whole[k + 1]);
        }
    }
};
#else
struct Products {  // by bytes: high * HALF + low
    Sums high = {}, low = {};
    Sums total() const { return high * HALF + low; }
    void add(Codes w, int32_t x, int32_t y) { high = dot(high, w, x), low = dot(low, w, y); }
    static Sums dot(Sums sums, Codes w, int32_t x) {
#ifdef __AVX512VNNI__
        return reinterpret_cast<Sums>(_mm512_dpbusd_epi32(
            reinterpret_cast<__m512i>(sums), reinterpret_cast<__m512i>(w), _mm512_set1_epi32(x)));
#else
        int8_t quad[QUAD];
        std::memcpy(quad, &x, sizeof quad);
        for (int o = 0; o < OUTPUTS; o++)
            for (int k = 0; k < QUAD; k++) sums[o] += w[o * QUAD + k] * quad[k];
        return sums;
#endif
    }
    static void write(const int32_t* whole, int8_t* to) {
        for (int k = 0; k < GROUP; k++) {
            const int32_t high = (whole[k] + HALF / 2) >> 7;
            to[k] = static_cast<int8_t>(high);
            to[GROUP + k] = static_cast<int8_t>(whole[k] - high * HALF);
        }
    }
};
#endif

inline float sum(Floats v) {
    float s = 0;
    for (int i = 0; i < OUTPUTS; i++) s += v[i];
    return s;
}

// e^v within two units in the last place, for v from -87 to 88 (Cephes' expf)
inline Floats exponential(Floats v) {
    v = v > 88 ? floats(88) : v < -87 ? floats(-87) : v;
    const Floats shift = floats(12582912), whole = (v * 1.44269504f + shift) - shift;
    const Floats rest = (v - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Floats p = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * rest + 8.3334519073e-3f;
    p = p * rest + 4.1665795894e-2f;
    p = p * rest + 1.6666665459e-1f;
    p = p * rest + 5.0000001201e-1f;
    p = p * rest * rest + rest + 1;
    return p * reinterpret_cast<Floats>((__builtin_convertvector(whole, Sums) + 127) << 23);
}

struct Run {  // neighbouring rows on one LoRA
    int64_t first, stop;
    const Lora* lora;
};

// What linears read: rows of whole numbers with a scale a group, and their sums; and the rows' products with A.
struct Inputs {
    std::vector<int8_t> codes;  // (rows, groups, 2, GROUP), as Products::write lays them out
    std::vector<float> scale, sum, low, zeros;  // low (rows, parts * rank); zeros: as of a row without a LoRA
    int64_t groups = 0, low_width = 0;

    void fit(int64_t rows, int64_t width, int64_t ranks) {
        groups = (width + GROUP - 1) / GROUP, low_width = ranks;
        codes.resize(rows * groups * 2 * GROUP);
        scale.resize(rows * groups);
        sum.resize(rows * groups);
        low.resize(rows * low_width);
        zeros.resize(low_width);
    }

    // round a row of floats; groups are counted by its width, not by the widest linear's
    void take(int64_t n, const float* x, int64_t width) {
        int8_t* code = &codes[n * groups * 2 * GROUP];
        for (int64_t g = 0; g * GROUP < width; g++, x += GROUP, code += 2 * GROUP) {
            const int64_t count = std::min<int64_t>(GROUP, width - g * GROUP);
            float top = 0;
            for (int64_t k = 0; k < count; k++) top = std::max(top, std::abs(x[k]));
            const float inverse = top > 0 ? TOP / top : 0;
            int32_t whole[GROUP], total = 0;
            for (int64_t k = 0; k < GROUP; k++) {
                const float scaled = k < count ? x[k] * inverse : 0;
                whole[k] = static_cast<int32_t>(scaled + std::copysign(.5f, scaled));
                total += whole[k];
            }
            Products::write(whole, code);
            scale[n * groups + g] = top / TOP;
            sum[n * groups + g] = top / TOP * static_cast<float>(total);
        }
    }
};

// acc[m] += tile . row n + m, for M rows
template <int BITS, int M>
inline void dots(Floats (&acc)[M], const Linear& linear, int64_t tile, const Inputs& in, int64_t n) {
    const int64_t groups = (linear.in + GROUP - 1) / GROUP;
    const uint8_t* codes = linear.codes + tile * groups * OUTPUTS * GROUP * BITS / 8;
    const Half* scale = linear.scale + tile * groups * OUTPUTS * (BITS == 4 ? 2 : 1);
    for (int64_t g = 0; g < groups; g++) {
        Products products[M];
        for (int k = 0; k < GROUP / QUAD; k += 2) {
            const int8_t* x = &in.codes[(n * in.groups + g) * 2 * GROUP + k * QUAD];
            Codes one = load(codes), two;
            if (BITS == 4) {
                two = one >> 4, one &= 15;
                codes += sizeof(Codes);
            } else {
                two = load(codes + sizeof(Codes));
                codes += 2 * sizeof(Codes);
            }
            for (int m = 0; m < M; m++, x += in.groups * 2 * GROUP) {
                products[m].add(one, quad(x), quad(x + GROUP));
                products[m].add(two, quad(x + QUAD), quad(x + GROUP + QUAD));
            }
        }
        const Floats s = load(scale), offset = BITS == 4 ? load(scale + OUTPUTS) : s * -128;
        scale += OUTPUTS * (BITS == 4 ? 2 : 1);
        for (int m = 0; m < M; m++) {
            const int64_t of = (n + m) * in.groups + g;
            acc[m] += __builtin_convertvector(products[m].total(), Floats) * (s * in.scale[of]) + offset * in.sum[of];
        }
    }
}

struct Pass {
    const Model& model;
    const Row* row;
    int64_t rows;
    std::vector<Run> runs;
    Inputs inputs;
    std::vector<float> x, normed, wide, mixed;  // (rows, hidden | hidden | widest linear | heads or inner)

    Pass(const Model& model, const Row* row, int64_t rows) : model(model), row(row), rows(rows) {
        int64_t ranks = 0;
        for (int64_t n = 0; n < rows; n++) {
            if (runs.empty() || runs.back().lora != row[n].lora) {
                runs.push_back({n, n, row[n].lora});
                for (int64_t i = 0; row[n].lora && i < 4 * model.layers; i++)
                    ranks = std::max(ranks, row[n].lora[i].parts * row[n].lora[i].rank);
            }
            runs.back().stop = n + 1;
        }
        const int64_t attended = model.heads * model.head_size;
        x.resize(rows * model.hidden);
        normed.resize(rows * model.hidden);
        wide.resize(rows * std::max(2 * model.inner, attended + 2 * model.kv_heads * model.head_size));
        mixed.resize(rows * std::max(model.inner, attended));
        inputs.fit(rows, std::max(std::max(model.inner, attended), model.hidden), ranks);
    }

    const Lora* adapter(const Run& run, int64_t slot) const {
        return slot >= 0 && run.lora && run.lora[slot].a ? run.lora + slot : nullptr;
    }

    // Make what a linear reads, a row at a time: `make` writes row n of `in`. slot: 4 * layer + the linear's number in
    // it, or -1 where no LoRA can be.
    template <class Make>
    void prepare(const Linear& linear, int64_t slot, const float* in, Make make) {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < rows; n++) {
            make(n);
            inputs.take(n, in + n * linear.in, linear.in);
        }
        for (const Run& run : runs) {
            const Lora* lora = adapter(run, slot);
            if (!lora) continue;
            const int64_t chunks = (run.stop - run.first + ROWS - 1) / ROWS, blocks = lora->parts * lora->rank / OUTPUTS;
#pragma omp for collapse(2) schedule(static)
            for (int64_t chunk = 0; chunk < chunks; chunk++)
                for (int64_t block = 0; block < blocks; block++) {
                    const int64_t n = run.first + chunk * ROWS;
                    lower<ROWS>(lora->a + block * linear.in * OUTPUTS, in, linear.in, n, std::min(run.stop, n + ROWS),
                                block * OUTPUTS);
                }
        }
    }

    // low[n … stop][r …] = a @ in, for a block of A's rows
    template <int M>
    void lower(const Brain* a, const float* in, int64_t width, int64_t n, int64_t stop, int64_t r) {
        constexpr int CHAINS = M < 4 ? 4 / M : 1;  // so that few sums do not wait for each other
        for (; stop - n >= M; n += M) {
            Floats acc[M][CHAINS] = {};
            int64_t k = 0;
            for (; k + CHAINS <= width; k += CHAINS)
                for (int i = 0; i < CHAINS; i++) {
                    const Floats column = load(a + (k + i) * OUTPUTS);
                    for (int m = 0; m < M; m++) acc[m][i] += column * in[(n + m) * width + k + i];
                }
            for (; k < width; k++)
                for (int m = 0; m < M; m++) acc[m][0] += load(a + k * OUTPUTS) * in[(n + m) * width + k];
            for (int m = 0; m < M; m++) {
                for (int i = 1; i < CHAINS; i++) acc[m][0] += acc[m][i];
                std::memcpy(&inputs.low[(n + m) * inputs.low_width + r], &acc[m][0], sizeof(Floats));
            }
        }
        if constexpr (M > 1) lower<M / 2>(a, in, width, n, stop, r);
    }

    // out (rows, linear.out) = weight @ inputs + bias + LoRA; added to what is there where `add`
    void apply(const Linear& linear, int64_t slot, float* out, bool add) {
        const int64_t tiles = (linear.out + OUTPUTS - 1) / OUTPUTS;
#pragma omp for schedule(dynamic, 4)
        for (int64_t tile = 0; tile < tiles; tile++)
            if (linear.bits == 4) rows_of<4, ROWS>(linear, slot, tile, 0, out, add);
            else rows_of<8, ROWS>(linear, slot, tile, 0, out, add);
    }

    template <int BITS, int M>
    void rows_of(const Linear& linear, int64_t slot, int64_t tile, int64_t n, float* out, bool add) {
        for (; rows - n >= M; n += M) outputs<BITS, M>(linear, slot, tile, n, out, add);
        if constexpr (M > 1) rows_of<BITS, M / 2>(linear, slot, tile, n, out, add);
    }

    template <int BITS, int M>
    void outputs(const Linear& linear, int64_t slot, int64_t tile, int64_t n, float* out, bool add) {
        const int64_t o = tile * OUTPUTS, count = std::min<int64_t>(OUTPUTS, linear.out - o);
        Floats acc[M] = {};
        dots<BITS, M>(acc, linear, tile, inputs, n);
        for (const Run& run : runs)
            if (const Lora* lora = adapter(run, slot); lora && run.first < n + M && run.stop > n)
                raise<M>(acc, *lora, run, o, n);
        for (int m = 0; m < M; m++) {
            float* y = out + (n + m) * linear.out + o;
            for (int64_t i = 0; i < count; i++)
                y[i] = acc[m][i] + (linear.bias ? linear.bias[o + i] : 0) + (add ? y[i] : 0);
        }
    }

    // acc[m] += B . low[n + m], for the outputs from o on, and those of M rows that are in the run
    template <int M>
    void raise(Floats (&acc)[M], const Lora& lora, const Run& run, int64_t o, int64_t n) const {
        int64_t part = 0;
        while (o >= lora.ends[part]) part++;
        const Brain* b = lora.b + o * lora.rank;
        const float* low[M];
        for (int m = 0; m < M; m++)
            low[m] = n + m < run.first || n + m >= run.stop ? inputs.zeros.data()
                                                            : &inputs.low[(n + m) * inputs.low_width + part * lora.rank];
        for (int64_t r = 0; r < lora.rank; r++, b += OUTPUTS) {
            const Floats column = load(b);
            for (int m = 0; m < M; m++) acc[m] += column * low[m][r];
        }
    }

    // out = in / rms(in) * weight
    void rms(const float* in, const float* weight, int64_t width, float* out) const {
        Floats squares = {};
        int64_t k = 0;
        for (; k + OUTPUTS <= width; k += OUTPUTS) squares += load(in + k) * load(in + k);
        float square = sum(squares);
        for (; k < width; k++) square += in[k] * in[k];
        const float scale = 1 / std::sqrt(square / width + model.epsilon);
        for (k = 0; k < width; k++) out[k] = in[k] * scale * weight[k];
    }

    void norm(int64_t n, const float* weight) {
        rms(&x[n * model.hidden], weight, model.hidden, &normed[n * model.hidden]);
    }

    // rotate queries and keys by position; append keys and values to the caches
    void rotate(int64_t index) {
        const int64_t size = model.head_size, count = model.heads + 2 * model.kv_heads, half_size = size / 2;
        const float* weight = model.layer[index].qk_norm;
#pragma omp for collapse(2) schedule(static)
        for (int64_t n = 0; n < rows; n++)
            for (int64_t h = 0; h < count; h++) {
                float *head = &wide[(n * count + h) * size], turned[size];
                const float *cos = model.cos + row[n].position * size, *sin = model.sin + row[n].position * size;
                const bool value = h >= model.heads + model.kv_heads;
                if (weight && !value) rms(head, weight + h * size, size, head);
                for (int64_t k = 0; k < half_size && !value; k++) {
                    turned[k] = head[k] * cos[k] + head[k + half_size] * sin[k];
                    turned[k + half_size] = head[k + half_size] * cos[k + half_size] + head[k] * sin[k + half_size];
                }
                if (!value) std::memcpy(head, turned, size * sizeof(float));
                if (h < model.heads) continue;
                Half* kept = cached(n, index, h - model.heads);
                for (int64_t k = 0; k < size; k++) kept[k] = static_cast<Half>(head[k]);
            }
    }

    // where the cache of row n has the key (head < kv heads) or value of its own position
    Half* cached(int64_t n, int64_t index, int64_t head) const {
        const Row& r = row[n];
        return r.cache + ((index * 2 * model.kv_heads + head) * r.capacity + r.position) * model.head_size;
    }

    void attend(int64_t index) {
        const int64_t size = model.head_size, count = model.heads + 2 * model.kv_heads;
        const int64_t shared = model.heads / model.kv_heads;
#pragma omp for collapse(2) schedule(dynamic, rows > 1 ? shared : 1)  // heads on the same keys go to one thread
        for (int64_t n = 0; n < rows; n++)
            for (int64_t h = 0; h < model.heads; h++) {
                const int64_t past = row[n].position;  // keys 0 … past
                const Half* keys = cached(n, index, h / shared) - past * size;
                const Half* values = cached(n, index, model.kv_heads + h / shared) - past * size;
                float* out = &mixed[(n * model.heads + h) * size];
                const float* query = &wide[(n * count + h) * size];
                if (size % (4 * OUTPUTS) == 0) attend_head<4>(query, keys, values, past + 1, out);
                else attend_head<1>(query, keys, values, past + 1, out);
            }
    }

    // BLOCKS of OUTPUTS numbers of a head are summed at a time
    template <int BLOCKS>
    void attend_head(const float* query, const Half* keys, const Half* values, int64_t length, float* out) const {
        const int64_t size = model.head_size, padded = (length + OUTPUTS - 1) / OUTPUTS * OUTPUTS;
        const float scale = 1 / std::sqrt(static_cast<float>(size));
        static thread_local std::vector<float> weights;
        weights.assign(padded, -INFINITY);
        float top = -INFINITY;
        for (int64_t t = 0; t < length; t++) {
            Floats acc = {};
            int64_t k = 0;
            for (; k + OUTPUTS <= size; k += OUTPUTS) acc += load(query + k) * load(keys + t * size + k);
            float score = sum(acc);
            for (; k < size; k++) score += query[k] * keys[t * size + k];
            weights[t] = score * scale;
            top = std::max(top, weights[t]);
        }
        Floats total = {};
        for (int64_t t = 0; t < padded; t += OUTPUTS) {
            const Floats w = exponential(load(&weights[t]) - top);
            total += w;
            std::memcpy(&weights[t], &w, sizeof w);
        }
        const float inverse = 1 / sum(total);
        int64_t k = 0;
        for (; k + BLOCKS * OUTPUTS <= size; k += BLOCKS * OUTPUTS) {
            Floats acc[BLOCKS] = {};
            for (int64_t t = 0; t < length; t++)
                for (int i = 0; i < BLOCKS; i++) acc[i] += load(values + t * size + k + i * OUTPUTS) * weights[t];
            for (int i = 0; i < BLOCKS; i++) acc[i] *= inverse;
            std::memcpy(out + k, acc, sizeof acc);
        }
        for (; k < size; k++) {
            out[k] = 0;
            for (int64_t t = 0; t < length; t++) out[k] += values[t * size + k] * weights[t] * inverse;
        }
    }

    // mixed (rows, inner) = silu(gate) * up
    void activate(int64_t n) {
        const int64_t inner = model.inner;
        const float *gate = &wide[2 * n * inner], *up = gate + inner;
        float* out = &mixed[n * inner];
        int64_t i = 0;
        for (; i + OUTPUTS <= inner; i += OUTPUTS) {
            const Floats g = load(gate + i), y = g / (1 + exponential(-g)) * load(up + i);
            std::memcpy(out + i, &y, sizeof y);
        }
        for (; i < inner; i++) out[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    }

    void layers() {
        for (int64_t i = 0; i < model.layers; i++) {
            const Layer& layer = model.layer[i];
            prepare(layer.qkv, 4 * i, normed.data(), [&](int64_t n) { norm(n, layer.input_norm); });
            apply(layer.qkv, 4 * i, wide.data(), false);
            rotate(i);
            attend(i);
            prepare(layer.o, 4 * i + 1, mixed.data(), [](int64_t) {});
            apply(layer.o, 4 * i + 1, x.data(), true);
            prepare(layer.gate_up, 4 * i + 2, normed.data(), [&](int64_t n) { norm(n, layer.post_norm); });
            apply(layer.gate_up, 4 * i + 2, wide.data(), false);
            prepare(layer.down, 4 * i + 3, mixed.data(), [&](int64_t n) { activate(n); });
            apply(layer.down, 4 * i + 3, x.data(), true);
        }
    }

    // the logits of the rows that want them, moved together; no LoRA is there
    void head(float* logits) {
        int64_t wanted = 0;
        for (int64_t n = 0; n < rows; n++)
            if (row[n].wanted)
                std::memmove(&x[wanted++ * model.hidden], &x[n * model.hidden], model.hidden * sizeof(float));
        rows = wanted, runs = {{0, wanted, nullptr}};
#pragma omp parallel num_threads(threads)
        {
            prepare(model.head, -1, normed.data(), [&](int64_t n) { norm(n, model.norm); });
            apply(model.head, -1, logits, false);
        }
    }

    int threads = 1;
};

}  // namespace

// Run the rows, append them to their caches, and write the logits of those that want them: (wanted, vocabulary).
extern "C" void forward(const Model* model, const Row* row, int64_t rows, float* logits, int threads) {
    const int64_t hidden = model->hidden;
    Pass pass(*model, row, rows);
    pass.threads = threads;
    for (int64_t n = 0; n < rows; n++)
        std::memcpy(&pass.x[n * hidden], model->embedding + row[n].token * hidden, hidden * sizeof(float));
#pragma omp parallel num_threads(threads)
    pass.layers();
    pass.head(logits);
}
