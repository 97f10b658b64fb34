// Winograd's minimal filtering F(2 x 2, 3 x 3): a convolution by filters of 3 x 3 taps that move by one, in tiles of
// 2 x 2 outputs, each from a patch of 4 x 4 inputs by 16 products where there were 36. (Lavin and Gray, CVPR 2016,
// equation 8; a derivative is the transpose of each step.) Of a patch d, a filter g and the cotangent e of a tile y:
//
//   y = A^T ((G g G^T) * (B^T d B)) A        dg = G^T (sum over tiles of (B^T d B) * (A e A^T)) G
//
//         1  0 -1  0          1    0    0           1  1  1  0
//   B^T = 0  1  1  0      G = 1/2  1/2  1/2   A^T = 0  1 -1 -1
//         0 -1  1  0          1/2 -1/2  1/2
//         0  1  0 -1          0    0    1
//
// The gradient by the input is such a convolution itself, of dy with the filter turned around.

#pragma once

#include "tiles.h"

constexpr int PATCH = 4, TILE = 2, POINTS = PATCH * PATCH;
constexpr int TOGETHER = 48; // tiles that are multiplied at once: their transforms stay in the second-level cache

// The transforms along one dimension; of `from` every `step`-th element is read, of `to` every `next`-th one is written.
struct OfInputs { // B^T
    static constexpr int FROM = PATCH, TO = PATCH;
    template <class V> static void apply(const V* from, int step, V* to, int next) {
        to[0] = from[0] - from[2 * step];
        to[next] = from[step] + from[2 * step];
        to[2 * next] = from[2 * step] - from[step];
        to[3 * next] = from[step] - from[3 * step];
    }
};
struct OfFilter { // G
    static constexpr int FROM = 3, TO = PATCH;
    template <class V> static void apply(const V* from, int step, V* to, int next) {
        V ends = (from[0] + from[2 * step]) / 2, middle = from[step] / 2;
        to[0] = from[0];
        to[next] = ends + middle;
        to[2 * next] = ends - middle;
        to[3 * next] = from[2 * step];
    }
};
struct ToOutputs { // A^T
    static constexpr int FROM = PATCH, TO = TILE;
    template <class V> static void apply(const V* from, int step, V* to, int next) {
        to[0] = from[0] + from[step] + from[2 * step];
        to[next] = from[step] - from[2 * step] - from[3 * step];
    }
};
struct OfOutputs { // A
    static constexpr int FROM = TILE, TO = PATCH;
    template <class V> static void apply(const V* from, int step, V* to, int next) {
        to[0] = from[0];
        to[next] = from[0] + from[step];
        to[2 * next] = from[0] - from[step];
        to[3 * next] = -from[step];
    }
};
struct ToFilter { // G^T
    static constexpr int FROM = PATCH, TO = 3;
    template <class V> static void apply(const V* from, int step, V* to, int next) {
        V half = (from[step] + from[2 * step]) / 2;
        to[0] = from[0] + half;
        to[next] = (from[step] - from[2 * step]) / 2;
        to[2 * next] = half + from[3 * step];
    }
};

// A transform along both dimensions of a square.
template <class How, class V> inline void transform(const V* from, V* to) {
    V half[How::TO * How::FROM];
#pragma GCC unroll 4
    for (int j = 0; j < How::FROM; ++j) How::apply(from + j, How::FROM, half + j, How::FROM);
#pragma GCC unroll 4
    for (int i = 0; i < How::TO; ++i) How::apply(half + i * How::FROM, 1, to + i * How::TO, 1);
}

// How tiles cover the outputs of all images.
struct Grid {
    int images, from[2], to[2], padding[2];

    static Grid forward(const Rulebook& book) {
        return {book.images, {book.from[0], book.from[1]}, {book.to[0], book.to[1]}, {book.padding[0], book.padding[1]}};
    }
    static Grid backward(const Rulebook& book) {
        return {book.images, {book.to[0], book.to[1]}, {book.from[0], book.from[1]},
                {2 - book.padding[0], 2 - book.padding[1]}};
    }
    int down() const { return (to[0] + TILE - 1) / TILE; }
    int along() const { return (to[1] + TILE - 1) / TILE; }
    int tiles() const { return images * down() * along(); }

    // Calls `body(first, count)` for so many tiles after the others.
    template <class Body> void blocks(Body body) const {
        for (int first = 0, all = tiles(); first < all; first += TOGETHER)
            body(first, all - first < TOGETHER ? all - first : TOGETHER);
    }

    // Row numbers of a square of images of so many pixels, -1 outside: a tile's patch of inputs, or its outputs.
    template <int SIZE> static void rows(const int* size, int image, int top, int left, int* out) {
        for (int i = 0; i < SIZE; ++i)
            for (int j = 0; j < SIZE; ++j) {
                int y = top + i, x = left + j;
                bool inside = y >= 0 && y < size[0] && x >= 0 && x < size[1];
                out[i * SIZE + j] = inside ? (image * size[0] + y) * size[1] + x : -1;
            }
    }
    void patch(int tile, int* out) const {
        int image = tile / (down() * along()), place = tile % (down() * along());
        rows<PATCH>(from, image, place / along() * TILE - padding[0], place % along() * TILE - padding[1], out);
    }
    void outputs(int tile, int* out) const {
        int image = tile / (down() * along()), place = tile % (down() * along());
        rows<TILE>(to, image, place / along() * TILE, place % along() * TILE, out);
    }
};

// Matrices of one size, one for each point. They begin a cache line apart, or all would lie in the same set of the cache.
template <class T> class Points {
    int columns;
    int64_t next;
    Buffer<T> memory;

  public:
    Points(int rows, int columns)
        : columns(columns), next((int64_t)rows * columns + LANES<T>), memory(POINTS * next) {}
    T* operator[](int point) const { return memory.get() + point * next; }
    void put(int row, int column, const Vector<T>* values) const {
        for (int point = 0; point < POINTS; ++point)
            store<T>((*this)[point] + (int64_t)row * columns + column, values[point]);
    }
    void take(int row, int column, Vector<T>* values) const {
        for (int point = 0; point < POINTS; ++point) values[point] = load((*this)[point] + (int64_t)row * columns + column);
    }
    void clear() const { std::memset(memory.get(), 0, POINTS * next * sizeof(T)); }
};

// Squares of a tensor, transformed: SIZE x SIZE rows each, where -1 stands for zeros.
template <class How, class T>
inline void transform_rows(const T* tensor, const int* rows, int number, int channels, const Points<T>& out) {
    constexpr int COUNT = How::FROM * How::FROM;
    for (int c = 0; c < channels; c += LANES<T>) {
        Vector<T> from[COUNT], to[POINTS];
        for (int i = 0; i < COUNT; ++i)
            from[i] = rows[i] < 0 ? Vector<T>{} : load(tensor + (int64_t)rows[i] * channels + c);
        transform<How>(from, to);
        out.put(number, c, to);
    }
}

// y = x * w of one task; w (9, inputs, outputs) is read from its last tap on where it is `turned` around.
template <class T>
void minimal_conv(Grid grid, const T* x, int inputs, const T* w, bool turned, int outputs, T* y) {
    Points<T> filter(inputs, outputs), patches(TOGETHER, inputs), products(TOGETHER, outputs);
    int64_t slice = (int64_t)inputs * outputs;
    for (int k = 0; k < inputs; ++k)
        for (int c = 0; c < outputs; c += LANES<T>) {
            Vector<T> taps[9], to[POINTS];
            for (int tap = 0; tap < 9; ++tap)
                taps[tap] = load(w + (turned ? 8 - tap : tap) * slice + (int64_t)k * outputs + c);
            transform<OfFilter>(taps, to);
            filter.put(k, c, to);
        }
    grid.blocks([&](int first, int count) {
        for (int i = 0; i < count; ++i) {
            int rows[POINTS];
            grid.patch(first + i, rows);
            transform_rows<OfInputs>(x, rows, i, inputs, patches);
        }
        for (int point = 0; point < POINTS; ++point) {
            const T* in = patches[point];
            T* out = products[point];
            multiply_rows<T, false>(count, [=](int row) { return in + (int64_t)row * inputs; }, Dense(), inputs,
                                    filter[point], outputs, [=](int row) { return out + (int64_t)row * outputs; });
        }
        for (int i = 0; i < count; ++i) {
            int rows[TILE * TILE];
            grid.outputs(first + i, rows);
            for (int c = 0; c < outputs; c += LANES<T>) {
                Vector<T> from[POINTS], to[TILE * TILE];
                products.take(i, c, from);
                transform<ToOutputs>(from, to);
                for (int r = 0; r < TILE * TILE; ++r)
                    if (rows[r] >= 0) store<T>(y + (int64_t)rows[r] * outputs + c, to[r]);
            }
        }
    });
}

// dw = x * dy of one task.
template <class T> void minimal_weight(Grid grid, const T* x, int inputs, const T* dy, int outputs, T* dw) {
    Points<T> filter(inputs, outputs), patches(TOGETHER, inputs), cotangents(TOGETHER, outputs);
    filter.clear();
    grid.blocks([&](int first, int count) {
        for (int i = 0; i < count; ++i) {
            int rows[POINTS];
            grid.patch(first + i, rows);
            transform_rows<OfInputs>(x, rows, i, inputs, patches);
            grid.outputs(first + i, rows);
            transform_rows<OfOutputs>(dy, rows, i, outputs, cotangents);
        }
        for (int point = 0; point < POINTS; ++point) {
            Neighbours<T> of{patches[point], cotangents[point], inputs, outputs};
            outer(count, of, inputs, outputs, filter[point]);
        }
    });
    int64_t slice = (int64_t)inputs * outputs;
    for (int k = 0; k < inputs; ++k)
        for (int c = 0; c < outputs; c += LANES<T>) {
            Vector<T> from[POINTS], taps[9];
            filter.take(k, c, from);
            transform<ToFilter>(from, taps);
            for (int tap = 0; tap < 9; ++tap) store<T>(dw + tap * slice + (int64_t)k * outputs + c, taps[tap]);
        }
}
