// Channels-last data seen as (rows, channels): cut into tiles of some rows by some channels, and walked vector by vector.
#pragma once
#include <algorithm>

#include "vectors.h"

constexpr int BLOCK = 4;  // vectors of channels side by side

struct Channels {
    long at;
    int vectors, last;  // lanes of the last vector
    int lanes(int i) const { return i == vectors - 1 ? last : LANES; }
};

// Calls f(channels, chunk, first row, last row) for every block of channels and chunk of rows, in parallel.
template <class F>
void tiles(long rows, long channels, long chunk_rows, int threads, F f) {
    long width = BLOCK * LANES, blocks = (channels + width - 1) / width, chunks = (rows + chunk_rows - 1) / chunk_rows;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (long tile = 0; tile < blocks * chunks; tile++) {
        long chunk = tile / blocks, at = tile % blocks * width, count = std::min(width, channels - at);
        int vectors = (int)((count + LANES - 1) / LANES);
        f(Channels{at, vectors, (int)(count - (vectors - 1) * LANES)}, chunk, chunk * chunk_rows,
          std::min(rows, (chunk + 1) * chunk_rows));
    }
}

// Calls f(offset, lanes, i) for the i-th vector of every row of a tile.
template <class F>
__attribute__((always_inline)) inline void walk(Channels c, long begin, long end, long channels, F f) {
    if (c.vectors == BLOCK && c.last == LANES) {
        for (long r = begin; r < end; r++)
            for (int i = 0; i < BLOCK; i++) f(r * channels + c.at + i * LANES, LANES, i);
    } else {
        for (long r = begin; r < end; r++)
            for (int i = 0; i < c.vectors; i++) f(r * channels + c.at + i * LANES, c.lanes(i), i);
    }
}

// Values of a tile's channels, one or several a channel: k[i] are those of the i-th vector.
template <int N>
struct Coefficients {
    vec k[BLOCK][N];
    Coefficients(Channels c, const float* const (&given)[N]) {
        for (int i = 0; i < c.vectors; i++)
            for (int n = 0; n < N; n++) k[i][n] = load(given[n] + c.at + i * LANES, c.lanes(i));
    }
};
