// BatchNorm and the activation behind it in one, on channels-last data seen as (rows, channels).
//
// Two passes over the data forward (statistics; normalise and activate) and two backward. Statistics are float sums of a
// few hundred rows, of what is left when about the mean is taken off, added up in double: in a fixed order, whatever
// the number of threads.
#include <cmath>
#include <vector>

#include "channels.h"

namespace {

// KEEP: the slope is dear, and what it makes of the gradient is kept between the two passes.
struct Identity {
    static constexpr bool KEEP = false;
    static vec value(vec z) { return z; }
    static vec slope(vec) { return all(1.0f); }
};

struct Relu {
    static constexpr bool KEEP = false;
    static vec value(vec z) { return maximum(z, all(0.0f)); }
    static vec slope(vec z) { return select(z <= 0.0f, all(0.0f), all(1.0f)); }
};

struct Relu6 {
    static constexpr bool KEEP = false;
    static vec value(vec z) { return minimum(maximum(z, all(0.0f)), all(6.0f)); }
    static vec slope(vec z) { return select((z <= 0.0f) | (z >= 6.0f), all(0.0f), all(1.0f)); }
};

struct Swish {
    static constexpr bool KEEP = true;
    static vec gate(vec z) { return reciprocal(1.0f + exponential(-z)); }
    static vec value(vec z) { return z * gate(z); }
    static vec slope(vec z) {
        vec s = gate(z);
        return s + z * s * (1.0f - s);
    }
};

struct HardSwish {
    static constexpr bool KEEP = false;
    static vec value(vec z) { return z * minimum(maximum(z + 3.0f, all(0.0f)), all(6.0f)) * (1.0f / 6.0f); }
    static vec slope(vec z) {
        vec middle = z * (1.0f / 3.0f) + 0.5f;
        return select(z <= -3.0f, all(0.0f), select(z >= 3.0f, all(1.0f), middle));
    }
};

constexpr long CHUNK = 512;  // rows of one float sum
constexpr long SAMPLES = 32;  // rows that say where about the mean is

// Two sums a channel over all rows; f(offset, lanes, coefficients, first, second) adds to them.
template <int N, class F>
void sums(long rows, long channels, int threads, const float* const (&given)[N], double* first, double* second, F f) {
    long chunks = (rows + CHUNK - 1) / CHUNK;
    std::vector<float> partial(chunks * 2 * channels);
    tiles(rows, channels, CHUNK, threads, [&](Channels c, long chunk, long begin, long end) {
        const Coefficients<N> own(c, given);
        vec a[BLOCK] = {}, b[BLOCK] = {};
        walk(c, begin, end, channels,
             [&](long at, int lanes, int i) __attribute__((always_inline)) { f(at, lanes, own.k[i], a[i], b[i]); });
        float* to = partial.data() + chunk * 2 * channels + c.at;
        for (int i = 0; i < c.vectors; i++) {
            store(to + i * LANES, a[i], c.lanes(i));
            store(to + channels + i * LANES, b[i], c.lanes(i));
        }
    });
    for (long c = 0; c < channels; c++) first[c] = second[c] = 0;
    for (long chunk = 0; chunk < chunks; chunk++)
        for (long c = 0; c < channels; c++) {
            first[c] += partial[chunk * 2 * channels + c];
            second[c] += partial[(chunk * 2 + 1) * channels + c];
        }
}

// Calls f(offset, lanes, coefficients) for all data.
template <int N, class F>
void each(long rows, long channels, int threads, const float* const (&given)[N], F f) {
    tiles(rows, channels, CHUNK, threads, [&](Channels c, long, long begin, long end) {
        const Coefficients<N> own(c, given);
        walk(c, begin, end, channels,
             [&](long at, int lanes, int i) __attribute__((always_inline)) { f(at, lanes, own.k[i]); });
    });
}

template <class T, class A>
void apply(const T* x, T* y, const float* scale, const float* shift, long rows, long channels, int threads) {
    each<2>(rows, channels, threads, {scale, shift}, [=](long at, int lanes, const vec* k) {
        store(y + at, A::value(load(x + at, lanes) * k[0] + k[1]), lanes);
    });
}

// dx of y = A(x · scale + shift), where scale and shift come from the batch's own mean and variance.
template <class T, class A>
void backward(const T* x, const T* dy, T* dx, const float* found, float* dweight, float* dbias, long rows,
              long channels, int threads) {
    const float *scale = found, *shift = found + channels, *mean = shift + channels, *invstd = mean + channels;
    std::vector<double> plain(channels), centred(channels);
    sums<3>(rows, channels, threads, {scale, shift, mean}, plain.data(), centred.data(),
            [=](long at, int lanes, const vec* k, vec& a, vec& b) __attribute__((always_inline)) {
                vec value = load(x + at, lanes), dz = load(dy + at, lanes) * A::slope(value * k[0] + k[1]);
                if (A::KEEP) store(dx + at, dz, lanes);
                a += dz;
                b += dz * (value - k[2]);
            });
    std::vector<float> constant(channels), slope(channels);
    for (long c = 0; c < channels; c++) {
        dbias[c] = (float)plain[c];
        dweight[c] = (float)(centred[c] * invstd[c]);
        // dx = scale · (dz − mean(dz) − (x − mean) · invstd² · mean(dz · (x − mean)))
        double k = centred[c] * invstd[c] * invstd[c] / rows;
        slope[c] = (float)(-k * scale[c]);
        constant[c] = (float)((k * mean[c] - plain[c] / rows) * scale[c]);
    }
    each<4>(rows, channels, threads, {scale, shift, slope.data(), constant.data()},
            [=](long at, int lanes, const vec* k) __attribute__((always_inline)) {
                vec value = load(x + at, lanes), dz;
                if (A::KEEP) dz = load(dx + at, lanes);
                else dz = load(dy + at, lanes) * A::slope(value * k[0] + k[1]);
                store(dx + at, dz * k[0] + (value * k[2] + k[3]), lanes);
            });
}

// What a BatchNorm of a batch is: y = x · scale + shift. `found` holds scale, shift, mean, 1 / standard deviation.
struct Norm {
    const float *weight, *bias;  // null: 1 and 0
    float *running_mean, *running_variance;  // null: not kept
    double momentum, epsilon;
};

template <class T>
void statistics(const T* x, const Norm& norm, float* found, long rows, long channels, int threads) {
    // Sums are taken relative to about the mean: that of some rows spread over the data.
    std::vector<float> origin(channels);
    long samples = std::min(rows, SAMPLES);
    for (long c = 0; c < channels; c += LANES) {
        int lanes = (int)std::min((long)LANES, channels - c);
        vec sum = {};
        for (long i = 0; i < samples; i++) sum += load(x + (2 * i + 1) * rows / (2 * samples) * channels + c, lanes);
        store(origin.data() + c, sum / (float)samples, lanes);
    }
    std::vector<double> first(channels), second(channels);
    const float* zero = origin.data();
    sums<1>(rows, channels, threads, {origin.data()}, first.data(), second.data(),
            [=](long at, int lanes, const vec* k, vec& a, vec& b) __attribute__((always_inline)) {
                vec value = load(x + at, lanes) - k[0];
                a += value;
                b += value * value;
            });
    for (long c = 0; c < channels; c++) {
        double offset = first[c] / rows, mean = zero[c] + offset, variance = second[c] / rows - offset * offset;
        if (variance < 0) variance = 0;  // a NaN stays
        double invstd = 1 / std::sqrt(variance + norm.epsilon), scale = invstd * (norm.weight ? norm.weight[c] : 1);
        found[c] = (float)scale;
        found[channels + c] = (float)((norm.bias ? norm.bias[c] : 0) - mean * scale);
        found[2 * channels + c] = (float)mean;
        found[3 * channels + c] = (float)invstd;
        if (norm.running_mean) {
            double unbiased = variance * rows / (rows - 1), m = norm.momentum;
            norm.running_mean[c] = (float)((1 - m) * norm.running_mean[c] + m * mean);
            norm.running_variance[c] = (float)((1 - m) * norm.running_variance[c] + m * unbiased);
        }
    }
}

template <class T>
using Apply = void (*)(const T*, T*, const float*, const float*, long, long, int);
template <class T>
using Backward = void (*)(const T*, const T*, T*, const float*, float*, float*, long, long, int);

// In the order of ACTIVATIONS in norm.py.
template <class T>
constexpr Apply<T> APPLY[] = {apply<T, Identity>, apply<T, Relu>, apply<T, Relu6>, apply<T, Swish>,
                              apply<T, HardSwish>};
template <class T>
constexpr Backward<T> BACKWARD[] = {backward<T, Identity>, backward<T, Relu>, backward<T, Relu6>, backward<T, Swish>,
                                    backward<T, HardSwish>};

}  // namespace

extern "C" {

void norm_statistics(int half, const void* x, const Norm* norm, float* found, long rows, long channels, int threads) {
    half ? statistics((const bf16*)x, *norm, found, rows, channels, threads)
         : statistics((const float*)x, *norm, found, rows, channels, threads);
}

void norm_apply(int half, int activation, const void* x, void* y, const float* found, long rows, long channels,
                int threads) {
    half ? APPLY<bf16>[activation]((const bf16*)x, (bf16*)y, found, found + channels, rows, channels, threads)
         : APPLY<float>[activation]((const float*)x, (float*)y, found, found + channels, rows, channels, threads);
}

void norm_backward(int half, int activation, const void* x, const void* dy, void* dx, const float* found,
                   float* dweight, float* dbias, long rows, long channels, int threads) {
    half ? BACKWARD<bf16>[activation]((const bf16*)x, (const bf16*)dy, (bf16*)dx, found, dweight, dbias, rows, channels,
                                      threads)
         : BACKWARD<float>[activation]((const float*)x, (const float*)dy, (float*)dx, found, dweight, dbias, rows,
                                       channels, threads);
}
}
