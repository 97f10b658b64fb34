#pragma once

#include "convolution.h"
#include "normalisation.h"

// A convolution with the batch norm and the (leaky) ReLU behind it, one task after the other, so that what one of them
// writes is still in the cache when the next one reads it. Letters and formulas are those of the parts.
template <class T> struct Block {
    const Rulebook& book;
    int inputs, outputs;
    T slope;
    Tasks<const T> x, w, y, mean, rate, scale, shift;

    int64_t rows_in() const { return (int64_t)book.images * book.from[0] * book.from[1]; }
    NormTask<T> norm(int t) const {
        return {book.outputs, outputs, slope, y[t], mean[t], rate[t], scale[t], shift[t]};
    }
};

template <class T>
void block(int tasks, int threads, Block<T> in, T eps, Tasks<T> y, Tasks<T> z, Tasks<T> mean, Tasks<T> rate) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < tasks; ++t) {
        conv_task(in.book, in.x[t], in.inputs, in.w[t], in.outputs, y[t]);
        norm_task(in.norm(t), eps, z[t], mean[t], rate[t]);
    }
}

template <class T> inline void add(int64_t count, const T* from, T* to) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// dy is written: what the norm gives, and `more` where there is such a cotangent of y itself. dx is not computed where it
// has no place.
template <class T>
void block_backward(int tasks, int threads, Block<T> in, Tasks<const T> dz, Tasks<const T> more, Tasks<T> dy, Tasks<T> dx,
                    Tasks<T> dw, Tasks<T> dscale, Tasks<T> dshift) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Turned<T> turned(in.book, in.inputs, in.outputs);
#pragma omp for
        for (int t = 0; t < tasks; ++t) {
            norm_backward_task(in.norm(t), dz[t], dy[t], dscale[t], dshift[t]);
            if (more.first) add((int64_t)in.book.outputs * in.outputs, more[t], dy[t]);
            if (dx.first) {
                const T* w = turned.of(in.w[t]);
                conv_input_task<T>(in.book, dy[t], in.outputs, w, in.inputs, dx[t]);
            }
            conv_weight_task<T>(in.book, in.x[t], in.inputs, dy[t], in.outputs, dw[t]);
        }
    }
}

// Gradients of sum(a dx + v dw + b dscale + c dshift) with respect to x, w, y, scale and dz, where y is a variable of its
// own: what leads from it to x and w is the first derivative's, which has other cotangents of y to add. Where a has no
// place, there was no dx, and ddw is zero and not written; ddx is computed where it has one.
template <class T>
void block_double(int tasks, int threads, Block<T> in, Tasks<const T> dz, Tasks<const T> dy, Tasks<const T> a,
                  Tasks<const T> v, Tasks<const T> b, Tasks<const T> c, Tasks<T> ddx, Tasks<T> ddw, Tasks<T> ddy,
                  Tasks<T> ddscale, Tasks<T> ddz) {
    const Rulebook& book = in.book;
    int64_t outputs = (int64_t)book.outputs * in.outputs;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Turned<T> turned(in.book, in.inputs, in.outputs);
        Buffer<T> up(outputs), more(a.first ? outputs : 0);
#pragma omp for
        for (int t = 0; t < tasks; ++t) {
            conv_task(book, in.x[t], in.inputs, v[t], in.outputs, up.get());
            if (a.first) {
                conv_task(book, a[t], in.inputs, in.w[t], in.outputs, more.get());
                add(outputs, more.get(), up.get());
                conv_weight_task<T>(book, a[t], in.inputs, dy[t], in.outputs, ddw[t]);
            }
            norm_double_task<T>(in.norm(t), dz[t], up.get(), b[t], c[t], ddy[t], ddscale[t], ddz[t]);
            if (ddx.first) {
                const T* turned_v = turned.of(v[t]);
                conv_input_task<T>(book, dy[t], in.outputs, turned_v, in.inputs, ddx[t]);
            }
        }
    }
}
