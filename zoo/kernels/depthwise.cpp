// Depthwise convolution on channels-last data: the gradient of the input, and that of the weights.
//
// Each work item is one image and sixteen channels. Its rows are copied to a small padded float buffer, so that the
// inner loops meet no border and convert each value once. Sums are float whatever the data's type. Every sum has a
// fixed order: the result does not depend on the number of threads.
#include <algorithm>
#include <vector>

#include "vectors.h"

namespace {

struct Geometry {
    long n, h, w, c, oh, ow;
    long kh, kw, sh, sw, ph, pw, dh, dw;
};

constexpr long BUFFER = 128 * 1024;  // bytes that rows are buffered in: they should stay in the second-level cache

// One axis of a correlation out[o] = Σ_k kernel[k] · in[o·stride + k·dilation − before], `in` being data with
// `stuffed` − 1 zeros between its elements.
struct Axis {
    long in, out, kernel, stride, dilation, before, stuffed;
};

float* scratch(size_t floats, int which) {
    static thread_local std::vector<float> buffers[2];
    auto& buffer = buffers[which];
    if (buffer.size() < floats + LANES) buffer.resize(floats + LANES);
    return (float*)(((uintptr_t)buffer.data() + 63) & ~(uintptr_t)63);
}

// Rows [first, first + count) of the padded, stuffed input as floats; live[r]: whether a row holds anything.
template <class T>
void fill(const T* image, const Axis& y, const Axis& x, long channels, int lanes, long first, long count, long columns,
          float* buffer, char* live) {
    for (long r = 0; r < count; r++) {
        long at = first + r - y.before;
        float* row = buffer + r * columns * LANES;
        live[r] = at >= 0 && at % y.stuffed == 0 && at / y.stuffed < y.in;
        if (!live[r]) continue;
        const T* source = image + (at / y.stuffed) * x.in * channels;
        if (x.stuffed == 1) {
            memset(row, 0, x.before * LANES * sizeof(float));
            long end = std::min(columns - x.before, x.in);
            for (long i = 0; i < end; i++) store(row + (i + x.before) * LANES, load(source + i * channels, lanes));
            memset(row + (end + x.before) * LANES, 0, (columns - end - x.before) * LANES * sizeof(float));
        } else {
            memset(row, 0, columns * LANES * sizeof(float));
            for (long i = 0; i < x.in && i * x.stuffed + x.before < columns; i++)
                store(row + (i * x.stuffed + x.before) * LANES, load(source + i * channels, lanes));
        }
    }
}

template <int TILE, int KW, class T>
void correlate_row(const float* buffer, const char* live, const float* kernel, const Axis& y, const Axis& x,
                   long columns, T* out, long channels, int lanes) {
    for (long o = 0; o < x.out; o += TILE) {
        vec sums[TILE] = {};
        for (long k = 0; k < y.kernel; k++) {
            if (!live[k * y.dilation]) continue;
            const float* row = buffer + (k * y.dilation * columns + o) * LANES;
            if constexpr (KW > 0) {
                constexpr int SPAN = TILE - 1 + KW;
                vec values[SPAN];
                for (int i = 0; i < SPAN; i++) values[i] = load(row + i * LANES);
                for (int j = 0; j < KW; j++) {
                    vec weight = load(kernel + (k * KW + j) * LANES);
                    for (int t = 0; t < TILE; t++) sums[t] += weight * values[t + j];
                }
            } else {
                for (long j = 0; j < x.kernel; j++) {
                    vec weight = load(kernel + (k * x.kernel + j) * LANES);
                    for (int t = 0; t < TILE; t++)
                        sums[t] += weight * load(row + (t + j * x.dilation) * LANES);
                }
            }
        }
        for (int t = 0; t < TILE && o + t < x.out; t++) store(out + (o + t) * channels, sums[t], lanes);
    }
}

template <class T>
using RowFunction = void (*)(const float*, const char*, const float*, const Axis&, const Axis&, long, T*, long, int);

template <int TILE, class T>
RowFunction<T> row_function(const Axis& x) {
    if (x.dilation == 1) {
        if (x.kernel == 1) return correlate_row<TILE, 1, T>;
        if (x.kernel == 3) return correlate_row<TILE, 3, T>;
        if (x.kernel == 5) return correlate_row<TILE, 5, T>;
        if (x.kernel == 7) return correlate_row<TILE, 7, T>;
    }
    return correlate_row<TILE, 0, T>;
}

// Outputs that share the weights in registers.
int tile(const Axis& x) { return x.out <= 2 ? 2 : x.out <= 4 ? 4 : 8; }

// Columns of the buffer: enough for the last tile, which may reach past the last output.
long buffer_columns(const Axis& x) {
    long outputs = (x.out + tile(x) - 1) / tile(x) * tile(x);
    return std::max((outputs - 1) * x.stride + (x.kernel - 1) * x.dilation + 1, x.before + 1);
}

// A correlation of stride 1. kernels: (blocks of LANES channels, kernel rows · columns, LANES).
template <class T>
void correlate(const T* in, T* out, const float* kernels, long images, long channels, const Axis& y, const Axis& x,
               int threads) {
    long blocks = (channels + LANES - 1) / LANES, columns = buffer_columns(x);
    long reach = (y.kernel - 1) * y.dilation + 1;
    long fit = BUFFER / (columns * LANES * (long)sizeof(float));
    long band = std::max(1L, std::min(y.out, fit - reach + 1));
    auto function = tile(x) == 2 ? row_function<2, T>(x) : tile(x) == 4 ? row_function<4, T>(x) : row_function<8, T>(x);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (long item = 0; item < images * blocks; item++) {
        long image = item / blocks, block = item % blocks;
        int lanes = (int)std::min((long)LANES, channels - block * LANES);
        long rows = band - 1 + reach, taps = y.kernel * x.kernel;
        float* buffer = scratch(rows * columns * LANES + rows / 4 + 1, 0);
        char* live = (char*)(buffer + rows * columns * LANES);
        const float* kernel = kernels + block * taps * LANES;
        const T* source = in + image * y.in * x.in * channels + block * LANES;
        T* target = out + image * y.out * x.out * channels + block * LANES;
        for (long first = 0; first < y.out; first += band) {
            long count = std::min(band, y.out - first);
            fill(source, y, x, channels, lanes, first, count - 1 + reach, columns, buffer, live);
            for (long r = 0; r < count; r++)
                function(buffer + r * columns * LANES, live + r, kernel, y, x, columns,
                         target + (first + r) * x.out * channels, channels, lanes);
        }
    }
}

// (channels, kh, kw) → (blocks of LANES channels, kh · kw, LANES), turned by 180°.
std::vector<float> turned(const float* weight, const Geometry& g) {
    long padded = (g.c + LANES - 1) / LANES * LANES, taps = g.kh * g.kw;
    std::vector<float> kernels(taps * padded, 0.0f);
    for (long c = 0; c < g.c; c++)
        for (long k = 0; k < taps; k++)
            kernels[(c / LANES * taps + taps - 1 - k) * LANES + c % LANES] = weight[c * taps + k];
    return kernels;
}

template <int KW>
void accumulate(const float* x_rows, const char* live, const float* g_rows, const Geometry& g, long rows, long columns,
                float* sums) {
    for (long k = 0; k < g.kh; k++) {
        for (long j0 = 0; j0 < g.kw; j0 += KW) {
            int taps = (int)std::min((long)KW, g.kw - j0);
            vec own[KW] = {};
            for (long r = 0; r < rows; r++) {
                long at = r * g.sh + k * g.dh;
                if (!live[at]) continue;
                const float* x = x_rows + (at * columns + j0 * g.dw) * LANES;
                const float* gradient = g_rows + r * g.ow * LANES;
                for (long o = 0; o < g.ow; o++) {
                    vec value = load(gradient + o * LANES);
                    for (int j = 0; j < (taps == KW ? KW : taps); j++)
                        own[j] += value * load(x + (o * g.sw + j * g.dw) * LANES);
                }
            }
            for (int j = 0; j < taps; j++) {
                float* sum = sums + (k * g.kw + j0 + j) * LANES;
                store(sum, load(sum) + own[j]);
            }
        }
    }
}

constexpr long GROUP = 8;  // images whose gradients are summed one after the other

template <class T>
void weight_gradient(const T* in, const T* gradient, float* result, const Geometry& g, int threads) {
    Axis y{g.h, g.oh, g.kh, g.sh, g.dh, g.ph, 1}, x{g.w, g.ow, g.kw, g.sw, g.dw, g.pw, 1};
    long blocks = (g.c + LANES - 1) / LANES, groups = (g.n + GROUP - 1) / GROUP, taps = g.kh * g.kw;
    long columns = buffer_columns(x), reach = (g.kh - 1) * g.dh + 1;
    long fit = BUFFER / ((columns * g.sh + g.ow) * LANES * (long)sizeof(float));
    long band = std::max(1L, std::min(g.oh, fit - reach));
    std::vector<float> partial(groups * blocks * taps * LANES, 0.0f);
    auto function = g.kw == 3 ? accumulate<3> : g.kw == 5 ? accumulate<5> : g.kw == 1 ? accumulate<1> : accumulate<7>;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (long item = 0; item < groups * blocks; item++) {
        long group = item / blocks, block = item % blocks;
        int lanes = (int)std::min((long)LANES, g.c - block * LANES);
        long rows = (band - 1) * g.sh + reach;
        float* x_rows = scratch(rows * columns * LANES, 0);
        float* g_rows = scratch(band * g.ow * LANES, 1);
        std::vector<char> live(rows);
        float* sums = partial.data() + item * taps * LANES;
        for (long image = group * GROUP; image < std::min(g.n, (group + 1) * GROUP); image++) {
            const T* source = in + image * g.h * g.w * g.c + block * LANES;
            const T* grad = gradient + image * g.oh * g.ow * g.c + block * LANES;
            for (long first = 0; first < g.oh; first += band) {
                long count = std::min(band, g.oh - first);
                fill(source, y, x, g.c, lanes, first * g.sh, (count - 1) * g.sh + reach, columns, x_rows, live.data());
                for (long i = 0; i < count * g.ow; i++)
                    store(g_rows + i * LANES, load(grad + (first * g.ow + i) * g.c, lanes));
                function(x_rows, live.data(), g_rows, g, count, columns, sums);
            }
        }
    }
    for (long c = 0; c < g.c; c++)
        for (long k = 0; k < taps; k++) {
            float sum = 0;
            for (long group = 0; group < groups; group++)
                sum += partial[((group * blocks + c / LANES) * taps + k) * LANES + c % LANES];
            result[c * taps + k] = sum;
        }
}

// The gradient of the input is a correlation, with the turned kernel, of the gradient with zeros stuffed in.
template <class T>
void input_gradient(const void* gradient, const float* weight, void* result, const Geometry& g, int threads) {
    Axis y{g.oh, g.h, g.kh, 1, g.dh, (g.kh - 1) * g.dh - g.ph, g.sh};
    Axis x{g.ow, g.w, g.kw, 1, g.dw, (g.kw - 1) * g.dw - g.pw, g.sw};
    correlate((const T*)gradient, (T*)result, turned(weight, g).data(), g.n, g.c, y, x, threads);
}

}  // namespace

extern "C" {

void depthwise_input_gradient(int half, const void* gradient, const float* weight, void* out, const Geometry* g,
                              int threads) {
    half ? input_gradient<bf16>(gradient, weight, out, *g, threads)
         : input_gradient<float>(gradient, weight, out, *g, threads);
}

void depthwise_weight_gradient(int half, const void* in, const void* gradient, float* out, const Geometry* g,
                               int threads) {
    half ? weight_gradient((const bf16*)in, (const bf16*)gradient, out, *g, threads)
         : weight_gradient((const float*)in, (const float*)gradient, out, *g, threads);
}
}
