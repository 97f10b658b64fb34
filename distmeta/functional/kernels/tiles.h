// Products of matrices in tiles of registers.

#pragma once

#include "vectors.h"

constexpr int ROWS = 6;     // rows of a tile: ROWS x COLUMNS vectors of sums stay in registers
constexpr int BLOCK = 96;   // pairs whose rows stay in the first-level cache while a weight gradient is summed
constexpr int RESIDENT = 1024; // rows of the output, about, that all taps pass over before the next ones

// A pair of rows that a tap of the filter connects: in the input and in the output.
struct Pair { int32_t input, output; };

// The pairs of every tap, in the order of the taps: those of tap t are pairs[starts[t]] up to pairs[starts[t + 1]], by
// rows of the output. `outputs` are the rows of all images; with `few` channels, or where `minimal` filtering pays, a
// convolution needs no pairs but the sizes behind: of an image of input and output, (vertical, horizontal), and how the
// filter moves.
struct Rulebook {
    const Pair* pairs;
    const int32_t* starts;
    int32_t taps, images, outputs, few, minimal;
    int32_t from[2], to[2], kernel[2], stride[2], padding[2], dilation[2];

    // Calls `begin(first, count)` for some images after the other, few enough to stay in the cache while all taps pass
    // over them, and `body(tap, pairs, count)` for their pairs of every tap. Images share no outputs, so no sum notices.
    template <class Begin, class Body> void blocks(Begin begin, Body body) const {
        int each = outputs / images, some = each < RESIDENT ? RESIDENT / each : 1;
        std::vector<int> next(starts, starts + taps);
        for (int first = 0; first < images; first += some) {
            int last = images - first < some ? images : first + some;
            begin(first, last - first);
            for (int tap = 0; tap < taps; ++tap) {
                const Pair* from = pairs + next[tap];
                const Pair* to = std::partition_point(
                    from, pairs + starts[tap + 1], [=](const Pair& pair) { return pair.output < last * each; });
                body(tap, from, (int)(to - from));
                next[tap] = (int)(to - pairs);
            }
        }
    }
};

// Where the k-th element of a row lies: next to the one before it, or at a place of its own.
struct Dense { int operator()(int k) const { return k; } };
struct Scattered {
    const int32_t* places;
    int operator()(int k) const { return places[k]; }
};

// out[r] (+)= sum_k in[r][at(k)] * w[k] for R rows and N vectors of columns; ADD says whether to what is there.
template <class T, int R, int N, bool ADD, class At>
inline void tile(const T* const* in, At at, int depth, const T* w, int ldw, T* const* out) {
    Vector<T> sums[R][N];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sums[r][n] = ADD ? load(out[r] + n * LANES<T>) : Vector<T>{};
    for (int k = 0; k < depth; ++k) {
        Vector<T> row[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) row[n] = load(w + (int64_t)k * ldw + n * LANES<T>);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            Vector<T> value = all(in[r][at(k)]);
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) sums[r][n] += value * row[n];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) store<T>(out[r] + n * LANES<T>, sums[r][n]);
}

// Rows of a tile of N vectors: few columns need more rows, or the processor waits for its own additions.
template <int N> constexpr int TALL = N == COLUMNS ? ROWS : 2 * ROWS;

template <class T, int N, bool ADD, class At, int R = TALL<N>>
inline void tile_of(int rows, const T* const* in, At at, int depth, const T* w, int ldw, T* const* out) {
    if constexpr (R > 1)
        if (rows < R) return tile_of<T, N, ADD, At, R - 1>(rows, in, at, depth, w, ldw, out);
    tile<T, R, N, ADD>(in, at, depth, w, ldw, out);
}

// to(row)[...] (+)= sum_k from(row)[at(k)] * w[k] for so many rows; w is (depth, width), the width a multiple of a vector.
template <class T, bool ADD, class From, class At, class To>
void multiply_rows(int count, From from, At at, int depth, const T* w, int width, To to) {
    over_columns<T>(width, [=](int column, auto vectors) {
        constexpr int N = decltype(vectors)::value;
        for (int first = 0; first < count; first += TALL<N>) {
            int rows = count - first < TALL<N> ? count - first : TALL<N>;
            const T* in[TALL<N>];
            T* out[TALL<N>];
            for (int r = 0; r < rows; ++r) {
                in[r] = from(first + r);
                out[r] = to(first + r) + column;
            }
            tile_of<T, N, ADD>(rows, in, at, depth, w + column, width, out);
        }
    });
}

// out[pair.to] += in[pair.from] @ w for the pairs of one tap, or without ADD what is there is replaced.
template <class T, bool FORWARD, bool ADD>
void multiply(const Pair* pairs, int count, const T* in, int depth, const T* w, int width, T* out) {
    auto from = [=](int p) { return in + (int64_t)(FORWARD ? pairs[p].input : pairs[p].output) * depth; };
    auto to = [=](int p) { return out + (int64_t)(FORWARD ? pairs[p].output : pairs[p].input) * width; };
    multiply_rows<T, ADD>(count, from, Dense(), depth, w, width, to);
}

// The rows that a sum of outer products goes over: of x, from one of its elements on, and of dy.
template <class T> struct Pairs { // those of one tap
    const Pair* pairs;
    const T *x, *dy;
    int ldx, ldy;
    Pairs from(int element) const { return {pairs, x + element, dy, ldx, ldy}; }
    const T* left(int p) const { return x + (int64_t)pairs[p].input * ldx; }
    const T* right(int p) const { return dy + (int64_t)pairs[p].output * ldy; }
    T element(const T* left, int r) const { return left[r]; }
};
template <class T> struct Firsts { // those of one image
    const T* const* firsts;
    Scattered at;
    const T* dy;
    int ldy;
    Firsts from(int element) const { return {firsts, {at.places + element}, dy, ldy}; }
    const T* left(int p) const { return firsts[p]; }
    const T* right(int p) const { return dy + (int64_t)p * ldy; }
    T element(const T* left, int r) const { return left[at(r)]; }
};

template <class T> struct Neighbours { // dense ones
    const T *x, *dy;
    int ldx, ldy;
    Neighbours from(int element) const { return {x + element, dy, ldx, ldy}; }
    const T* left(int p) const { return x + (int64_t)p * ldx; }
    const T* right(int p) const { return dy + (int64_t)p * ldy; }
    T element(const T* left, int r) const { return left[r]; }
};

// dw[r][columns] += sum_p left(p)[r] * right(p)[columns] for R rows of dw and N vectors of columns.
template <class T, int R, int N, class Rows>
inline void outer_tile(Rows of, int first, int last, int column, int ldy, T* dw) {
    Vector<T> sums[R][N];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sums[r][n] = load(dw + (int64_t)r * ldy + n * LANES<T>);
    for (int p = first; p < last; ++p) {
        const T *left = of.left(p), *right = of.right(p) + column;
        Vector<T> values[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) values[n] = load(right + n * LANES<T>);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            Vector<T> value = all(of.element(left, r));
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) sums[r][n] += value * values[n];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) store<T>(dw + (int64_t)r * ldy + n * LANES<T>, sums[r][n]);
}

template <class T, int N, class Rows, int R = TALL<N>>
inline void outer_tile_of(int rows, Rows of, int first, int last, int column, int ldy, T* dw) {
    if constexpr (R > 1)
        if (rows < R) return outer_tile_of<T, N, Rows, R - 1>(rows, of, first, last, column, ldy, dw);
    outer_tile<T, R, N>(of, first, last, column, ldy, dw);
}

// dw (inputs, outputs) += x^T dy over so many rows; the number of outputs is a multiple of a vector.
template <class T, class Rows> void outer(int count, Rows of, int inputs, int outputs, T* dw) {
    for (int first = 0; first < count; first += BLOCK) {
        int last = count - first < BLOCK ? count : first + BLOCK;
        over_columns<T>(outputs, [=](int column, auto vectors) {
            constexpr int N = decltype(vectors)::value;
            for (int row = 0; row < inputs; row += TALL<N>) {
                int rows = inputs - row < TALL<N> ? inputs - row : TALL<N>;
                T* to = dw + (int64_t)row * outputs + column;
                outer_tile_of<T, N>(rows, of.from(row), first, last, column, outputs, to);
            }
        });
    }
}

// Lanes of a and b in turn, from lane FIRST of both on.
#if defined(__clang__)
template <class T, int FIRST, int... PLACE>
inline Vector<T> interleave(Vector<T> a, Vector<T> b, std::integer_sequence<int, PLACE...>) {
    return __builtin_shufflevector(a, b, (FIRST + PLACE / 2 + (PLACE % 2) * LANES<T>)...);
}
#else
template <class T, int FIRST, int... PLACE>
inline Vector<T> interleave(Vector<T> a, Vector<T> b, std::integer_sequence<int, PLACE...>) {
    return __builtin_shuffle(a, b, Whole<T>{(FIRST + PLACE / 2 + (PLACE % 2) * LANES<T>)...});
}
#endif

// A square of LANES x LANES, transposed in registers: interleaving row i with row i + LANES / 2, log2(LANES) times.
template <class T> inline void transpose_square(const T* from, int next_from, T* to, int next_to) {
    constexpr int MIDDLE = LANES<T> / 2;
    std::make_integer_sequence<int, LANES<T>> places;
    Vector<T> rows[LANES<T>], mixed[LANES<T>];
    for (int r = 0; r < LANES<T>; ++r) rows[r] = load(from + (int64_t)r * next_from);
#pragma GCC unroll 4
    for (int round = 1; round < LANES<T>; round *= 2) {
        for (int r = 0; r < MIDDLE; ++r) {
            mixed[2 * r] = interleave<T, 0>(rows[r], rows[r + MIDDLE], places);
            mixed[2 * r + 1] = interleave<T, MIDDLE>(rows[r], rows[r + MIDDLE], places);
        }
        for (int r = 0; r < LANES<T>; ++r) rows[r] = mixed[r];
    }
    for (int r = 0; r < LANES<T>; ++r) store<T>(to + (int64_t)r * next_to, rows[r]);
}

// (rows, columns) to (columns, rows); columns are a multiple of a vector.
template <class T> void transpose(const T* from, int rows, int columns, T* to) {
    int whole = rows / LANES<T> * LANES<T>;
    for (int c = 0; c < columns; c += LANES<T>) {
        for (int r = 0; r < whole; r += LANES<T>)
            transpose_square(from + (int64_t)r * columns + c, columns, to + (int64_t)c * rows + r, rows);
        for (int r = whole; r < rows; ++r)
            for (int i = c; i < c + LANES<T>; ++i) to[(int64_t)i * rows + r] = from[(int64_t)r * columns + i];
    }
}
