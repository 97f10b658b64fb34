#pragma once

#include "vectors.h"

// A max-pool of one task's images; a tap of a window that lies on padding counts as not there.
struct Pool {
    int64_t images, height, width, tall, wide; // tall and wide: the size of an output
    int64_t kernel[2], stride[2], padding[2], dilation[2];

    int64_t inputs() const { return images * height * width; }
    int64_t outputs() const { return images * tall * wide; }

    // Whether no two windows share an input.
    bool disjoint() const {
        return dilation[0] == 1 && dilation[1] == 1 && kernel[0] <= stride[0] && kernel[1] <= stride[1];
    }
    // Whether, in addition, every input is in a window.
    bool covering() const {
        return disjoint() && kernel[0] == stride[0] && kernel[1] == stride[1] && padding[0] == 0 && padding[1] == 0 &&
               tall * stride[0] >= height && wide * stride[1] >= width;
    }

    // Calls `body(output, first, taps, count)` with the row of every output, and those of its inputs in the order of the
    // taps, counted from the row `first`. All windows that lie inside share their taps, and the usual ones of 2 x 2 have a
    // count that the compiler knows.
    struct Tap { int64_t input; int number; };
    template <class Body> inline void windows(Body body) const {
        Tap all[UINT8_MAX + 1], some[UINT8_MAX + 1];
        int whole = 0;
        for (int64_t down = 0; down < kernel[0]; ++down)
            for (int64_t right = 0; right < kernel[1]; ++right, ++whole)
                all[whole] = {down * dilation[0] * width + right * dilation[1], whole};
        for (int64_t image = 0, output = 0; image < images; ++image)
            for (int64_t i = 0; i < tall; ++i)
                for (int64_t j = 0; j < wide; ++j, ++output) {
                    int64_t top = i * stride[0] - padding[0], left = j * stride[1] - padding[1];
                    int64_t first = (image * height + top) * width + left;
                    if (top >= 0 && left >= 0 && top + (kernel[0] - 1) * dilation[0] < height &&
                        left + (kernel[1] - 1) * dilation[1] < width) {
                        if (whole == 4)
                            body(output, first, all, std::integral_constant<int, 4>());
                        else
                            body(output, first, all, whole);
                        continue;
                    }
                    int count = 0;
                    for (int tap = 0; tap < whole; ++tap) {
                        int64_t y = top + tap / kernel[1] * dilation[0], x = left + tap % kernel[1] * dilation[1];
                        if (y >= 0 && y < height && x >= 0 && x < width) some[count++] = all[tap];
                    }
                    body(output, first, some, count);
                }
    }
};

// Numbers of taps, a byte each in memory, for the channels of a vector.
template <class T> struct Narrow { typedef uint8_t type __attribute__((vector_size(LANES<T>))); };
template <class T> inline Whole<T> load_taps(const uint8_t* p) {
    typename Narrow<T>::type v;
    std::memcpy(&v, p, LANES<T>);
    return __builtin_convertvector(v, Whole<T>);
}
template <class T> inline void store_taps(uint8_t* p, Whole<T> numbers) {
    auto v = __builtin_convertvector(numbers, typename Narrow<T>::type);
    std::memcpy(p, &v, LANES<T>);
}

// y = the largest of every window and index = the tap that it came from: as in torch the first of equal ones, and the last
// NaN where there are any. Channels are whole vectors, here and below.
template <class T>
void max_pool(const Pool& pool, int tasks, int threads, int channels, const T* x, T* y, uint8_t* index) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < tasks; ++t) {
        const T* from = x + t * pool.inputs() * channels;
        int64_t own = t * pool.outputs() * channels;
        pool.windows([=](int64_t output, int64_t first, const Pool::Tap* taps, auto count) {
            for (int c = 0; c < channels; c += LANES<T>) {
                Vector<T> best = load(from + (first + taps[0].input) * channels + c);
                Whole<T> chosen = Whole<T>{} + taps[0].number;
                for (int i = 1; i < count; ++i) {
                    Vector<T> value = load(from + (first + taps[i].input) * channels + c);
                    auto better = (value > best) | (value != value);
                    best = better ? value : best;
                    chosen = better ? Whole<T>{} + taps[i].number : chosen;
                }
                store<T>(y + own + output * channels + c, best);
                store_taps<T>(index + own + output * channels + c, chosen);
            }
        });
    }
}

// dx = dy where it came from, zero elsewhere.
template <class T>
void pool_scatter(const Pool& pool, int tasks, int threads, int channels, const T* dy, int64_t next_y,
                  const uint8_t* index, int64_t next_i, T* dx) {
    bool disjoint = pool.disjoint(), covering = pool.covering();
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < tasks; ++t) {
        T* to = dx + t * pool.inputs() * channels;
        if (!covering) std::memset(to, 0, pool.inputs() * channels * sizeof(T));
        pool.windows([=](int64_t output, int64_t first, const Pool::Tap* taps, auto count) {
            for (int c = 0; c < channels; c += LANES<T>) {
                Vector<T> value = load(dy + t * next_y + output * channels + c);
                Whole<T> chosen = load_taps<T>(index + t * next_i + output * channels + c);
                for (int i = 0; i < count; ++i) {
                    T* place = to + (first + taps[i].input) * channels + c;
                    Vector<T> part = chosen == taps[i].number ? value : Vector<T>{};
                    store<T>(place, disjoint ? part : load(place) + part);
                }
            }
        });
    }
}

// y = x at what `index` chose.
template <class T>
void pool_gather(const Pool& pool, int tasks, int threads, int channels, const T* x, int64_t next_x,
                 const uint8_t* index, int64_t next_i, T* y) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < tasks; ++t) {
        const T* from = x + t * next_x;
        T* to = y + t * pool.outputs() * channels;
        pool.windows([=](int64_t output, int64_t first, const Pool::Tap* taps, auto count) {
            for (int c = 0; c < channels; c += LANES<T>) {
                Whole<T> chosen = load_taps<T>(index + t * next_i + output * channels + c);
                Vector<T> value{};
                for (int i = 0; i < count; ++i)
                    value = chosen == taps[i].number ? load(from + (first + taps[i].input) * channels + c) : value;
                store<T>(to + output * channels + c, value);
            }
        });
    }
}
