// Squeeze-and-excitation's passes over its data, seen as (images, positions, channels): one read or write each.
#include "channels.h"

namespace {

// sums[image, channel] = scale · Σ over positions of f(offset, lanes).
template <class F>
void reduce(float* sums, long images, long positions, long channels, float scale, int threads, F f) {
    tiles(images * positions, channels, positions, threads, [=](Channels c, long image, long begin, long end) {
        vec own[BLOCK] = {};
        walk(c, begin, end, channels,
             [&](long at, int lanes, int i) __attribute__((always_inline)) { own[i] += f(at, lanes); });
        for (int i = 0; i < c.vectors; i++)
            store(sums + image * channels + c.at + i * LANES, own[i] * scale, c.lanes(i));
    });
}

// y[image, position, channel] = x · times[image, channel] + plus[image, channel].
template <class T>
void scale(const T* x, T* y, const float* times, const float* plus, long images, long positions, long channels,
           int threads) {
    tiles(images * positions, channels, positions, threads, [=](Channels c, long image, long begin, long end) {
        const Coefficients<1> a(c, {times + image * channels});
        vec b[BLOCK] = {};
        for (int i = 0; plus && i < c.vectors; i++) b[i] = load(plus + image * channels + c.at + i * LANES, c.lanes(i));
        walk(c, begin, end, channels, [&](long at, int lanes, int i) __attribute__((always_inline)) {
            store(y + at, load(x + at, lanes) * a.k[i][0] + b[i], lanes);
        });
    });
}

template <class T>
void mean(const T* x, float* means, long images, long positions, long channels, int threads) {
    reduce(means, images, positions, channels, 1.0f / positions, threads,
           [=](long at, int lanes) { return load(x + at, lanes); });
}

template <class T>
void dot(const T* x, const T* y, float* sums, long images, long positions, long channels, int threads) {
    reduce(sums, images, positions, channels, 1.0f, threads,
           [=](long at, int lanes) { return load(x + at, lanes) * load(y + at, lanes); });
}

}  // namespace

extern "C" {

void gate_mean(int half, const void* x, float* means, long images, long positions, long channels, int threads) {
    half ? mean((const bf16*)x, means, images, positions, channels, threads)
         : mean((const float*)x, means, images, positions, channels, threads);
}

void gate_dot(int half, const void* x, const void* y, float* sums, long images, long positions, long channels,
              int threads) {
    half ? dot((const bf16*)x, (const bf16*)y, sums, images, positions, channels, threads)
         : dot((const float*)x, (const float*)y, sums, images, positions, channels, threads);
}

void gate_scale(int half, const void* x, void* y, const float* times, const float* plus, long images, long positions,
                long channels, int threads) {
    half ? scale((const bf16*)x, (bf16*)y, times, plus, images, positions, channels, threads)
         : scale((const float*)x, (float*)y, times, plus, images, positions, channels, threads);
}
}
