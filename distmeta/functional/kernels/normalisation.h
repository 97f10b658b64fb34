// Batch norm with a (leaky) ReLU, its first and second derivatives.

#pragma once

#include "vectors.h"

constexpr int PARTIAL = 16; // rows that are summed before their sum is added to the total in double precision

// Calls `body(n, first, last)` for the n-th vector of channels and some rows, of which all vectors are taken before the next
// rows: they are still in the first-level cache, and what belongs to a vector stays in registers.
template <int N, class Body> inline void over_rows(int64_t rows, Body body) {
    for (int64_t first = 0; first < rows; first += PARTIAL)
        for (int n = 0; n < N; ++n) body(n, first, first + PARTIAL < rows ? first + PARTIAL : rows);
}

// Sums over rows, S of them at once, of the terms that `term(row, n, values)` gives for the n-th vector of channels.
template <class T, int N, int S, class Term> inline void sum_rows(int64_t rows, Term term, Vectors<T, N>* totals) {
    double wide[N][S][LANES<T>] = {};
    for (int64_t first = 0; first < rows; first += PARTIAL) {
        int64_t last = first + PARTIAL < rows ? first + PARTIAL : rows;
        Vector<T> part[N][S] = {};
        auto add = [&](int64_t row, int n) {
            Vector<T> values[S];
            term(row, n, values);
            for (int s = 0; s < S; ++s) part[n][s] += values[s];
        };
        if constexpr (S > 2) {
            for (int n = 0; n < N; ++n)
                for (int64_t row = first; row < last; ++row) add(row, n);
        } else {
            for (int64_t row = first; row < last; ++row)
                for (int n = 0; n < N; ++n) add(row, n);
        }
        for (int n = 0; n < N; ++n)
            for (int s = 0; s < S; ++s)
                for (int i = 0; i < LANES<T>; ++i) wide[n][s][i] += part[n][s][i];
    }
    for (int n = 0; n < N; ++n)
        for (int s = 0; s < S; ++s)
            for (int i = 0; i < LANES<T>; ++i) totals[s].v[n][i] = (T)wide[n][s][i];
}

template <class T> inline Vector<T> rectify(Vector<T> y, Vector<T> value, T slope) {
    return y > Vector<T>{} ? value : value * slope;
}

// Some channels of one task's batch norm, and the tensors of the same layout that belong to it.
template <class T, int N> struct Norm {
    int64_t rows;
    int channels;
    T slope;
    const T* x;
    Vectors<T, N> mean, rate, scale, shift;

    Vector<T> at(const T* tensor, int64_t row, int n) const { return load(tensor + row * channels + n * LANES<T>); }
    void put(T* tensor, int64_t row, int n, Vector<T> value) const {
        store<T>(tensor + row * channels + n * LANES<T>, value);
    }
    Vector<T> normal(int64_t row, int n) const { return (at(x, row, n) - mean.v[n]) * rate.v[n]; }
    Vector<T> output(Vector<T> normal, int n) const { return normal * scale.v[n] + shift.v[n]; }
};

// One task's batch norm: x is (rows, channels), the others are (channels).
template <class T> struct NormTask {
    int64_t rows;
    int channels;
    T slope;
    const T *x, *mean, *rate, *scale, *shift;

    template <int N> Norm<T, N> part(int c) const {
        return {rows, channels, slope, x + c, load_all<T, N>(mean + c), load_all<T, N>(rate + c),
                load_all<T, N>(scale + c), load_all<T, N>(shift + c)};
    }
};

// z = f(xhat * scale + shift), xhat = (x - mean) * rate, f(y) = y > 0 ? y : slope * y; mean and rate are written.
template <class T> void norm_task(NormTask<T> in, T eps, T* z, T* mean, T* rate) {
    over_columns<T>(in.channels, [=](int c, auto width) {
        constexpr int N = decltype(width)::value;
        const T* own = in.x + c;
        Vectors<T, N> total, middle, inverse;
        sum_rows<T, N, 1>(in.rows, [&](int64_t row, int n, Vector<T>* out) {
            out[0] = load(own + row * in.channels + n * LANES<T>);
        }, &total);
        for (int n = 0; n < N; ++n) middle.v[n] = total.v[n] / (T)in.rows;
        sum_rows<T, N, 1>(in.rows, [&](int64_t row, int n, Vector<T>* out) {
            Vector<T> off = load(own + row * in.channels + n * LANES<T>) - middle.v[n];
            out[0] = off * off;
        }, &total);
        for (int n = 0; n < N; ++n)
            for (int i = 0; i < LANES<T>; ++i)
                inverse.v[n][i] = 1 / __builtin_sqrt((double)total.v[n][i] / in.rows + eps);
        store_all(mean + c, middle);
        store_all(rate + c, inverse);
        auto part = in.template part<N>(c);
        for (int64_t row = 0; row < in.rows; ++row)
            for (int n = 0; n < N; ++n) {
                Vector<T> y = part.output(part.normal(row, n), n);
                part.put(z + c, row, n, rectify<T>(y, y, in.slope));
            }
    });
}

// Gradients of the above for a cotangent dz, with dy = f'(y) dz and means over rows:
// dshift = sum dy, dscale = sum dy xhat, dx = scale rate (dy - mean(dy) - xhat mean(dy xhat)).
template <class T> void norm_backward_task(NormTask<T> in, const T* dz, T* dx, T* dscale, T* dshift) {
    over_columns<T>(in.channels, [=](int c, auto width) {
        constexpr int N = decltype(width)::value;
        auto part = in.template part<N>(c);
        Vectors<T, N> sums[2];
        sum_rows<T, N, 2>(in.rows, [&](int64_t row, int n, Vector<T>* out) {
            Vector<T> normal = part.normal(row, n);
            out[0] = rectify<T>(part.output(normal, n), part.at(dz + c, row, n), in.slope);
            out[1] = out[0] * normal;
        }, sums);
        store_all(dshift + c, sums[0]);
        store_all(dscale + c, sums[1]);
        Vectors<T, N> d, e, factor;
        for (int n = 0; n < N; ++n) {
            d.v[n] = sums[0].v[n] / (T)in.rows;
            e.v[n] = sums[1].v[n] / (T)in.rows;
            factor.v[n] = part.scale.v[n] * part.rate.v[n];
        }
        for (int64_t row = 0; row < in.rows; ++row)
            for (int n = 0; n < N; ++n) {
                Vector<T> normal = part.normal(row, n);
                Vector<T> dy = rectify<T>(part.output(normal, n), part.at(dz + c, row, n), in.slope);
                part.put(dx + c, row, n, factor.v[n] * (dy - d.v[n] - normal * e.v[n]));
            }
    });
}

// Gradients of sum(a dx + b dscale + c dshift) of the above with respect to x, scale and dz. With means
// A = mean(a), B = mean(a xhat), D = mean(dy), E = mean(dy xhat), F = mean(a dy), W = F - A D - B E:
//   ddz = f'(y) (scale rate (a - A - xhat B) + b xhat + c),   ddscale = rows rate W,
//   u = b dy - scale rate (a E + B dy),   ddx = rate (u - mean(u) - xhat (mean(u xhat) + scale rate W)).
template <class T>
void norm_double_task(NormTask<T> in, const T* dz, const T* a, const T* b, const T* c, T* ddx, T* ddscale, T* ddz) {
    over_columns<T>(in.channels, [=](int channel, auto width) {
        constexpr int N = decltype(width)::value;
        auto part = in.template part<N>(channel);
        const T *down = dz + channel, *up = a + channel;
        Vectors<T, N> sums[5];
        sum_rows<T, N, 5>(in.rows, [&](int64_t row, int n, Vector<T>* out) {
            Vector<T> normal = part.normal(row, n), value = part.at(up, row, n);
            Vector<T> dy = rectify<T>(part.output(normal, n), part.at(down, row, n), in.slope);
            out[0] = value;
            out[1] = value * normal;
            out[2] = dy;
            out[3] = dy * normal;
            out[4] = value * dy;
        }, sums);
        for (int n = 0; n < N; ++n) {
            for (auto& sum : sums) sum.v[n] /= (T)in.rows;
            Vector<T> W = sums[4].v[n] - sums[0].v[n] * sums[2].v[n] - sums[1].v[n] * sums[3].v[n];
            store<T>(ddscale + channel + n * LANES<T>, W * part.rate.v[n] * (T)in.rows);
            sums[4].v[n] = W;
        }
        over_rows<N>(in.rows, [&](int n, int64_t first, int64_t last) {
            Vector<T> A = sums[0].v[n], B = sums[1].v[n], D = sums[2].v[n], E = sums[3].v[n], W = sums[4].v[n];
            Vector<T> factor = part.scale.v[n] * part.rate.v[n];
            Vector<T> b0 = load(b + channel + n * LANES<T>), c0 = load(c + channel + n * LANES<T>);
            Vector<T> u0 = b0 * D - factor * (A * E + B * D), u1 = b0 * E - factor * ((T)2 * B * E - W);
            for (int64_t row = first; row < last; ++row) {
                Vector<T> normal = part.normal(row, n), value = part.at(up, row, n);
                Vector<T> y = part.output(normal, n), dy = rectify<T>(y, part.at(down, row, n), in.slope);
                Vector<T> to_z = factor * (value - A - normal * B) + b0 * normal + c0;
                part.put(ddz + channel, row, n, rectify<T>(y, to_z, in.slope));
                Vector<T> u = b0 * dy - factor * (value * E + B * dy);
                part.put(ddx + channel, row, n, part.rate.v[n] * (u - u0 - normal * u1));
            }
        });
    });
}

// What the kernels of batch norm are given: dense (tasks, rows, channels), and vectors (tasks, channels).
template <class T> struct NormInputs {
    int64_t rows;
    int channels;
    T slope;
    Tasks<const T> x, mean, rate, scale, shift;

    NormTask<T> operator[](int t) const { return {rows, channels, slope, x[t], mean[t], rate[t], scale[t], shift[t]}; }
};

template <class T> void norm(int tasks, int threads, NormInputs<T> in, T eps, Tasks<T> z, Tasks<T> mean, Tasks<T> rate) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < tasks; ++t) norm_task(in[t], eps, z[t], mean[t], rate[t]);
}

template <class T>
void norm_backward(int tasks, int threads, NormInputs<T> in, Tasks<const T> dz, Tasks<T> dx, Tasks<T> dscale,
                   Tasks<T> dshift) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < tasks; ++t) norm_backward_task(in[t], dz[t], dx[t], dscale[t], dshift[t]);
}

template <class T>
void norm_double(int tasks, int threads, NormInputs<T> in, Tasks<const T> dz, Tasks<const T> a, Tasks<const T> b,
                 Tasks<const T> c, Tasks<T> ddx, Tasks<T> ddscale, Tasks<T> ddz) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < tasks; ++t) norm_double_task(in[t], dz[t], a[t], b[t], c[t], ddx[t], ddscale[t], ddz[t]);
}
