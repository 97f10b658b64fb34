// A convolution and its two gradients, for one task and for all.

#pragma once

#include "winograd.h"

// A convolution of few inputs as one product, of (outputs, taps x inputs) with (taps x inputs, channels): one image after
// the other is copied between zeros, where every output sees elements at the same distances from its first one.
template <class T> class Padded {
    const Rulebook& book;
    int inputs;
    std::vector<int32_t> bases;
    std::vector<T> image;

    int width() const { return book.from[1] + 2 * book.padding[1]; }

  public:
    std::vector<int32_t> places; // of what an output sees, from its first element on

    Padded(const Rulebook& book, int inputs)
        : book(book), inputs(inputs), image((int64_t)(book.from[0] + 2 * book.padding[0]) * width() * inputs) {
        for (int i = 0; i < book.to[0]; ++i)
            for (int j = 0; j < book.to[1]; ++j)
                bases.push_back((i * book.stride[0] * width() + j * book.stride[1]) * inputs);
        for (int down = 0; down < book.kernel[0]; ++down)
            for (int right = 0; right < book.kernel[1]; ++right)
                for (int k = 0; k < inputs; ++k)
                    places.push_back((down * book.dilation[0] * width() + right * book.dilation[1]) * inputs + k);
    }

    // Calls `body(first, count, firsts)` for one image after the other: its outputs, and the first element of each.
    template <class Body> void images(const T* x, Body body) {
        int count = (int)bases.size(), row = book.from[1] * inputs;
        std::vector<const T*> firsts(count);
        for (int i = 0; i < count; ++i) firsts[i] = image.data() + bases[i];
        T* inside = image.data() + ((int64_t)book.padding[0] * width() + book.padding[1]) * inputs;
        for (int number = 0; number < book.images; ++number) {
            for (int i = 0; i < book.from[0]; ++i, x += row)
                std::memcpy(inside + (int64_t)i * width() * inputs, x, row * sizeof(T));
            body((int64_t)number * count, count, firsts.data());
        }
    }
};

// y = x * w of one task, (input rows, inputs) and (taps, inputs, outputs) to (output rows, outputs).
template <class T> void conv_task(const Rulebook& book, const T* x, int inputs, const T* w, int outputs, T* y) {
    if (book.minimal) {
        minimal_conv(Grid::forward(book), x, inputs, w, false, outputs, y);
    } else if (book.few) {
        Padded<T> padded(book, inputs);
        padded.images(x, [&](int64_t first, int count, const T* const* firsts) {
            T* out = y + first * outputs;
            multiply_rows<T, false>(count, [=](int row) { return firsts[row]; }, Scattered{padded.places.data()},
                                    book.taps * inputs, w, outputs,
                                    [=](int row) { return out + (int64_t)row * outputs; });
        });
    } else if (book.taps == 1 && book.starts[1] == book.outputs) { // every output has one pair
        multiply<T, true, false>(book.pairs, book.outputs, x, inputs, w, outputs, y);
    } else {
        int64_t image = (int64_t)(book.outputs / book.images) * outputs;
        book.blocks([=](int first, int count) { std::memset(y + first * image, 0, count * image * sizeof(T)); },
                    [=](int tap, const Pair* pairs, int count) {
                        multiply<T, true, true>(pairs, count, x, inputs, w + (int64_t)tap * inputs * outputs, outputs, y);
                    });
    }
}

// Filters (taps, inputs, outputs) as (taps, outputs, inputs), for one task after the other.
template <class T> class Turned {
    const Rulebook& book;
    int inputs, outputs;
    Buffer<T> turned;
    const T* done = nullptr;

  public:
    Turned(const Rulebook& book, int inputs, int outputs)
        : book(book), inputs(inputs), outputs(outputs), turned((int64_t)book.taps * inputs * outputs) {}

    const T* of(const T* w) {
        int64_t slice = (int64_t)inputs * outputs;
        for (int tap = 0; tap < book.taps && done != w; ++tap)
            transpose(w + tap * slice, inputs, outputs, turned.get() + tap * slice);
        done = w;
        return turned.get();
    }
};

// dx = dy * w of one task; w is turned.
template <class T> void conv_input_task(const Rulebook& book, const T* dy, int outputs, const T* w, int inputs, T* dx) {
    if (book.minimal) return minimal_conv(Grid::backward(book), dy, outputs, w, true, inputs, dx);
    int64_t image = (int64_t)book.from[0] * book.from[1] * inputs;
    book.blocks([=](int first, int count) { std::memset(dx + first * image, 0, count * image * sizeof(T)); },
                [=](int tap, const Pair* pairs, int count) {
                    multiply<T, false, true>(pairs, count, dy, outputs, w + (int64_t)tap * inputs * outputs, inputs, dx);
                });
}

// dw = x * dy of one task.
template <class T> void conv_weight_task(const Rulebook& book, const T* x, int inputs, const T* dy, int outputs, T* dw) {
    if (book.minimal) return minimal_weight(Grid::forward(book), x, inputs, dy, outputs, dw);
    std::memset(dw, 0, (int64_t)book.taps * inputs * outputs * sizeof(T));
    if (book.few) {
        Padded<T> padded(book, inputs);
        padded.images(x, [&](int64_t first, int count, const T* const* firsts) {
            Firsts<T> of{firsts, {padded.places.data()}, dy + first * outputs, outputs};
            outer(count, of, book.taps * inputs, outputs, dw);
        });
        return;
    }
    book.blocks([](int, int) {}, [=](int tap, const Pair* pairs, int count) {
        Pairs<T> of{pairs, x, dy, inputs, outputs};
        outer(count, of, inputs, outputs, dw + (int64_t)tap * inputs * outputs);
    });
}

template <class T>
void conv(const Rulebook& book, int tasks, int threads, Tasks<const T> x, int inputs, Tasks<const T> w, int outputs,
          Tasks<T> y) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < tasks; ++t) conv_task(book, x[t], inputs, w[t], outputs, y[t]);
}

template <class T>
void conv_input(const Rulebook& book, int tasks, int threads, Tasks<const T> dy, int outputs, Tasks<const T> w,
                int inputs, Tasks<T> dx) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Turned<T> turned(book, inputs, outputs);
#pragma omp for
        for (int t = 0; t < tasks; ++t)
            conv_input_task(book, dy[t], outputs, turned.of(w[t]), inputs, dx[t]);
    }
}

template <class T>
void conv_weight(const Rulebook& book, int tasks, int threads, Tasks<const T> x, int inputs, Tasks<const T> dy,
                 int outputs, Tasks<T> dw) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < tasks; ++t) conv_weight_task(book, x[t], inputs, dy[t], outputs, dw[t]);
}
