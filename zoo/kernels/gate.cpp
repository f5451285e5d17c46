// Squeeze-and-excitation's passes over its data, seen as (images, positions, channels): one read or write each.
#include <algorithm>

#include "vectors.h"

namespace {

constexpr int BLOCK = 4;

// Calls f(image, first channel, vectors, lanes of the last one) for blocks of channels, in parallel.
template <class F>
void blocks(long images, long channels, int threads, F f) {
    long width = BLOCK * LANES, count = (channels + width - 1) / width;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (long item = 0; item < images * count; item++) {
        long at = item % count * width, own = std::min(width, channels - at);
        int vectors = (int)((own + LANES - 1) / LANES);
        f(item / count, at, vectors, (int)(own - (vectors - 1) * LANES));
    }
}

// sums[image, channel] = scale · Σ over positions of f(offset, lanes).
template <class F>
void reduce(float* sums, long images, long positions, long channels, float scale, int threads, F f) {
    blocks(images, channels, threads, [=](long image, long c, int vectors, int last) {
        vec own[BLOCK] = {};
        for (long p = 0; p < positions; p++) {
            long at = (image * positions + p) * channels + c;
            if (vectors == BLOCK && last == LANES)
                for (int i = 0; i < BLOCK; i++) own[i] += f(at + i * LANES, LANES);
            else
                for (int i = 0; i < vectors; i++) own[i] += f(at + i * LANES, i == vectors - 1 ? last : LANES);
        }
        for (int i = 0; i < vectors; i++)
            store(sums + image * channels + c + i * LANES, own[i] * scale, i == vectors - 1 ? last : LANES);
    });
}

// y[image, position, channel] = x · times[image, channel] + plus[image, channel].
template <class T>
void scale(const T* x, T* y, const float* times, const float* plus, long images, long positions, long channels,
           int threads) {
    blocks(images, channels, threads, [=](long image, long c, int vectors, int last) {
        vec a[BLOCK], b[BLOCK] = {};
        for (int i = 0; i < vectors; i++) {
            int lanes = i == vectors - 1 ? last : LANES;
            a[i] = load(times + image * channels + c + i * LANES, lanes);
            if (plus) b[i] = load(plus + image * channels + c + i * LANES, lanes);
        }
        for (long p = 0; p < positions; p++) {
            long at = (image * positions + p) * channels + c;
            if (vectors == BLOCK && last == LANES)
                for (int i = 0; i < BLOCK; i++) store(y + at + i * LANES, load(x + at + i * LANES) * a[i] + b[i]);
            else
                for (int i = 0; i < vectors; i++) {
                    int lanes = i == vectors - 1 ? last : LANES;
                    store(y + at + i * LANES, load(x + at + i * LANES, lanes) * a[i] + b[i], lanes);
                }
        }
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
