// Task-batched layers on the CPU: a convolution and its two gradients, batch norm with a (leaky) ReLU and its first and
// second derivatives, a max-pool and its gradients. Every tensor is dense with the channels last; the leading dimension
// counts tasks, and a stride of 0 between tasks means that they share a tensor. Tasks are computed independently of each
// other, in an order of additions that depends on the shapes alone: results do not depend on how tasks are chunked or on
// the number of threads.
//
// Compiled by build.py beside it for the vector width that torch uses, without torch's headers.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
constexpr int BYTES = 64, COLUMNS = 4;
#elif defined(__AVX__)
constexpr int BYTES = 32, COLUMNS = 2;
#else
constexpr int BYTES = 16, COLUMNS = 4;
#endif
constexpr int ROWS = 6;     // rows of a tile: ROWS x COLUMNS vectors of sums stay in registers
constexpr int HALF = COLUMNS > 1 ? COLUMNS / 2 : 1; // columns of a tile of twice as many rows
constexpr int BLOCK = 96;   // pairs whose rows stay in the first-level cache while a weight gradient is summed
constexpr int RESIDENT = 1024; // rows of the output, about, that all taps pass over before the next ones
constexpr int PARTIAL = 16; // rows that are summed before their sum is added to the total in double precision

template <class T> struct Wide { typedef T type __attribute__((vector_size(BYTES))); };
template <class T> using Vector = typename Wide<T>::type;
template <class T> constexpr int LANES = BYTES / sizeof(T);

// A vector of whole numbers, as many and as wide as those of a Vector<T>.
template <int SIZE> struct Integer;
template <> struct Integer<4> { using type = int32_t; };
template <> struct Integer<8> { using type = int64_t; };
template <class T> using Whole = Vector<typename Integer<sizeof(T)>::type>;

template <class T> inline Vector<T> load(const T* p) {
    Vector<T> v;
    std::memcpy(&v, p, BYTES);
    return v;
}
template <class T> inline void store(T* p, Vector<T> v) { std::memcpy(p, &v, BYTES); }
template <class T> inline Vector<T> all(T value) { return value - Vector<T>{}; }

// A pair of rows that a tap of the filter connects: in the input and in the output.
struct Pair { int32_t input, output; };

// The pairs of every tap, in the order of the taps: those of tap t are pairs[starts[t]] up to pairs[starts[t + 1]], by
// rows of the output. `outputs` are the rows of all images; with `few` channels a convolution needs no pairs but the
// sizes behind: of an image of input and output, (vertical, horizontal), and how the filter moves.
struct Rulebook {
    const Pair* pairs;
    const int32_t* starts;
    int32_t taps, images, outputs, few;
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

// Calls `body(column, width)` for the columns from the first on, as many at a time as there is a tile for; `width` is an
// integral constant: the number of vectors.
template <class T, class Body> inline void over_columns(int columns, Body body) {
    int c = 0;
    for (; c + COLUMNS * LANES<T> <= columns; c += COLUMNS * LANES<T>) body(c, std::integral_constant<int, COLUMNS>());
    for (; c + HALF * LANES<T> <= columns; c += HALF * LANES<T>) body(c, std::integral_constant<int, HALF>());
    for (; c < columns; c += LANES<T>) body(c, std::integral_constant<int, 1>());
}

// out[pair.to] (+)= in[pair.from] @ w for the pairs of one tap; w is (depth, width), the width a multiple of a vector.
template <class T, bool FORWARD, bool ADD>
void multiply(const Pair* pairs, int count, const T* in, int depth, const T* w, int width, T* out) {
    over_columns<T>(width, [=](int column, auto vectors) {
        constexpr int N = decltype(vectors)::value;
        for (int first = 0; first < count; first += TALL<N>) {
            int rows = count - first < TALL<N> ? count - first : TALL<N>;
            const T* from[TALL<N>];
            T* to[TALL<N>];
            for (int r = 0; r < rows; ++r) {
                const Pair& pair = pairs[first + r];
                from[r] = in + (int64_t)(FORWARD ? pair.input : pair.output) * depth;
                to[r] = out + (int64_t)(FORWARD ? pair.output : pair.input) * width + column;
            }
            tile_of<T, N, ADD>(rows, from, Dense(), depth, w + column, width, to);
        }
    });
}

// out[row] = in[row][at(k)] @ w[k], for rows of one image.
template <class T>
void multiply_image(int count, const T* const* in, Scattered at, int depth, const T* w, int width, T* out) {
    over_columns<T>(width, [=](int column, auto vectors) {
        constexpr int N = decltype(vectors)::value;
        for (int first = 0; first < count; first += TALL<N>) {
            int rows = count - first < TALL<N> ? count - first : TALL<N>;
            T* to[TALL<N>];
            for (int r = 0; r < rows; ++r) to[r] = out + (int64_t)(first + r) * width + column;
            tile_of<T, N, false>(rows, in + first, at, depth, w + column, width, to);
        }
    });
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

// y = x * w of one task, (input rows, inputs) and (taps, inputs, outputs) to (output rows, outputs).
template <class T> void conv_task(const Rulebook& book, const T* x, int inputs, const T* w, int outputs, T* y) {
    if (book.few) {
        Padded<T> padded(book, inputs);
        padded.images(x, [&](int64_t first, int count, const T* const* firsts) {
            multiply_image(count, firsts, Scattered{padded.places.data()}, book.taps * inputs, w, outputs,
                           y + first * outputs);
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
    std::vector<T> turned;
    const T* done = nullptr;

  public:
    const T* of(const Rulebook& book, const T* w, int inputs, int outputs) {
        if (done != w) {
            int64_t slice = (int64_t)inputs * outputs;
            turned.resize(slice * book.taps);
            for (int tap = 0; tap < book.taps; ++tap)
                transpose(w + tap * slice, inputs, outputs, turned.data() + tap * slice);
            done = w;
        }
        return turned.data();
    }
};

// dx = dy * w of one task; w is turned.
template <class T> void conv_input_task(const Rulebook& book, const T* dy, int outputs, const T* w, int inputs, T* dx) {
    int64_t image = (int64_t)book.from[0] * book.from[1] * inputs;
    book.blocks([=](int first, int count) { std::memset(dx + first * image, 0, count * image * sizeof(T)); },
                [=](int tap, const Pair* pairs, int count) {
                    multiply<T, false, true>(pairs, count, dy, outputs, w + (int64_t)tap * inputs * outputs, inputs, dx);
                });
}

// dw = x * dy of one task.
template <class T> void conv_weight_task(const Rulebook& book, const T* x, int inputs, const T* dy, int outputs, T* dw) {
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

// A tensor of all tasks, and how many elements lie between two of them.
template <class T> struct Tasks {
    T* first;
    int64_t next;
    T* operator[](int task) const { return first + task * next; }
};

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
        Turned<T> turned;
#pragma omp for
        for (int t = 0; t < tasks; ++t)
            conv_input_task(book, dy[t], outputs, turned.of(book, w[t], inputs, outputs), inputs, dx[t]);
    }
}

template <class T>
void conv_weight(const Rulebook& book, int tasks, int threads, Tasks<const T> x, int inputs, Tasks<const T> dy,
                 int outputs, Tasks<T> dw) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < tasks; ++t) conv_weight_task(book, x[t], inputs, dy[t], outputs, dw[t]);
}

// N neighbouring vectors of channels.
template <class T, int N> struct Vectors { Vector<T> v[N]; };

template <class T, int N> inline Vectors<T, N> load_all(const T* p) {
    Vectors<T, N> out;
    for (int n = 0; n < N; ++n) out.v[n] = load(p + n * LANES<T>);
    return out;
}
template <class T, int N> inline void store_all(T* p, const Vectors<T, N>& values) {
    for (int n = 0; n < N; ++n) store<T>(p + n * LANES<T>, values.v[n]);
}

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
        Turned<T> turned;
#pragma omp for
        for (int t = 0; t < tasks; ++t) {
            norm_backward_task(in.norm(t), dz[t], dy[t], dscale[t], dshift[t]);
            if (more.first) add((int64_t)in.book.outputs * in.outputs, more[t], dy[t]);
            if (dx.first) {
                const T* w = turned.of(in.book, in.w[t], in.inputs, in.outputs);
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
        Turned<T> turned;
        std::unique_ptr<T[]> up(new T[outputs]), more(new T[a.first ? outputs : 0]);
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
                const T* turned_v = turned.of(book, v[t], in.inputs, in.outputs);
                conv_input_task<T>(book, dy[t], in.outputs, turned_v, in.inputs, ddx[t]);
            }
        }
    }
}

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

// The parts of signatures below that several share.
#define NORM(T, NEXT)                                                                                                   \
    (NormInputs<T>{rows, channels, (T)slope, {x, next_x}, {mean, NEXT}, {rate, NEXT}, {scale, next_c}, {shift, next_c}})
#define BLOCK_OF(T)                                                                                                     \
    (Block<T>{*book, inputs, outputs, (T)slope, {x, next_x}, {w, next_w}, {y, next_y}, {mean, next_m}, {rate, next_m},  \
              {scale, next_c}, {shift, next_c}})

#define EXPORT(T, NAME)                                                                                                 \
    extern "C" void conv_##NAME(const Rulebook* book, int tasks, int threads, const T* x, int64_t next_x, int inputs,   \
                                const T* w, int64_t next_w, int outputs, T* y, int64_t next_y) {                        \
        conv<T>(*book, tasks, threads, {x, next_x}, inputs, {w, next_w}, outputs, {y, next_y});                         \
    }                                                                                                                   \
    extern "C" void conv_input_##NAME(const Rulebook* book, int tasks, int threads, const T* dy, int64_t next_y,        \
                                      int outputs, const T* w, int64_t next_w, int inputs, T* dx, int64_t next_x) {     \
        conv_input<T>(*book, tasks, threads, {dy, next_y}, outputs, {w, next_w}, inputs, {dx, next_x});                 \
    }                                                                                                                   \
    extern "C" void conv_weight_##NAME(const Rulebook* book, int tasks, int threads, const T* x, int64_t next_x,        \
                                       int inputs, const T* dy, int64_t next_y, int outputs, T* dw, int64_t next_w) {   \
        conv_weight<T>(*book, tasks, threads, {x, next_x}, inputs, {dy, next_y}, outputs, {dw, next_w});                \
    }                                                                                                                   \
    extern "C" void norm_##NAME(int tasks, int threads, int64_t rows, int channels, double eps, double slope,           \
                                const T* x, int64_t next_x, const T* scale, const T* shift, int64_t next_c, T* z,       \
                                T* mean, T* rate) {                                                                     \
        norm<T>(tasks, threads, NORM(T, channels), eps, {z, rows * channels}, {mean, channels}, {rate, channels});      \
    }                                                                                                                   \
    extern "C" void norm_backward_##NAME(int tasks, int threads, int64_t rows, int channels, double slope, const T* x,  \
                                         int64_t next_x, const T* mean, const T* rate, int64_t next_m, const T* scale,  \
                                         const T* shift, int64_t next_c, const T* dz, int64_t next_z, T* dx, T* dscale, \
                                         T* dshift) {                                                                   \
        norm_backward<T>(tasks, threads, NORM(T, next_m), {dz, next_z}, {dx, rows * channels}, {dscale, channels},      \
                         {dshift, channels});                                                                           \
    }                                                                                                                   \
    extern "C" void norm_double_##NAME(int tasks, int threads, int64_t rows, int channels, double slope, const T* x,    \
                                       int64_t next_x, const T* mean, const T* rate, int64_t next_m, const T* scale,    \
                                       const T* shift, int64_t next_c, const T* dz, int64_t next_z, const T* a,         \
                                       int64_t next_a, const T* b, const T* c, int64_t next_b, T* ddx, T* ddscale,      \
                                       T* ddz) {                                                                        \
        norm_double<T>(tasks, threads, NORM(T, next_m), {dz, next_z}, {a, next_a}, {b, next_b}, {c, next_b},            \
                       {ddx, rows * channels}, {ddscale, channels}, {ddz, rows * channels});                            \
    }                                                                                                                   \
    extern "C" void block_##NAME(const Rulebook* book, int tasks, int threads, int inputs, int outputs, double eps,     \
                                 double slope, const T* x, int64_t next_x, const T* w, int64_t next_w, const T* scale,  \
                                 const T* shift, int64_t next_c, T* y, T* z, T* mean, T* rate) {                        \
        int64_t next_y = (int64_t)book->outputs * outputs, next_m = outputs;                                            \
        block<T>(tasks, threads, BLOCK_OF(T), eps, {y, next_y}, {z, next_y}, {mean, next_m}, {rate, next_m});           \
    }                                                                                                                   \
    extern "C" void block_backward_##NAME(const Rulebook* book, int tasks, int threads, int inputs, int outputs,        \
                                          double slope, const T* x, int64_t next_x, const T* w, int64_t next_w,         \
                                          const T* y, int64_t next_y, const T* mean, const T* rate, int64_t next_m,     \
                                          const T* scale, const T* shift, int64_t next_c, const T* dz, int64_t next_z,  \
                                          const T* more, int64_t next_more, T* dy, T* dx, T* dw, T* dscale,             \
                                          T* dshift) {                                                                  \
        auto in = BLOCK_OF(T);                                                                                          \
        block_backward<T>(tasks, threads, in, {dz, next_z}, {more, next_more},                                          \
                          {dy, (int64_t)book->outputs * outputs}, {dx, in.rows_in() * inputs},                          \
                          {dw, (int64_t)book->taps * inputs * outputs}, {dscale, outputs}, {dshift, outputs});          \
    }                                                                                                                   \
    extern "C" void block_double_##NAME(const Rulebook* book, int tasks, int threads, int inputs, int outputs,          \
                                        double slope, const T* x, int64_t next_x, const T* w, int64_t next_w,           \
                                        const T* y, int64_t next_y, const T* mean, const T* rate, int64_t next_m,       \
                                        const T* scale, const T* shift, int64_t next_c, const T* dz, int64_t next_z,    \
                                        const T* dy, int64_t next_d, const T* a, int64_t next_a, const T* v,            \
                                        int64_t next_v, const T* b, const T* c, int64_t next_b, T* ddx, T* ddw,         \
                                        T* ddy, T* ddscale, T* ddz) {                                                   \
        auto in = BLOCK_OF(T);                                                                                          \
        int64_t own = (int64_t)book->outputs * outputs;                                                                 \
        block_double<T>(tasks, threads, in, {dz, next_z}, {dy, next_d}, {a, next_a}, {v, next_v}, {b, next_b},          \
                        {c, next_b}, {ddx, in.rows_in() * inputs}, {ddw, (int64_t)book->taps * inputs * outputs},       \
                        {ddy, own}, {ddscale, outputs}, {ddz, own});                                                    \
    }                                                                                                                   \
    extern "C" void max_pool_##NAME(const Pool* pool, int tasks, int threads, int channels, const T* x, T* y,           \
                                    uint8_t* index) {                                                                   \
        max_pool<T>(*pool, tasks, threads, channels, x, y, index);                                                      \
    }                                                                                                                   \
    extern "C" void pool_scatter_##NAME(const Pool* pool, int tasks, int threads, int channels, const T* dy,            \
                                        int64_t next_y, const uint8_t* index, int64_t next_i, T* dx) {                  \
        pool_scatter<T>(*pool, tasks, threads, channels, dy, next_y, index, next_i, dx);                                \
    }                                                                                                                   \
    extern "C" void pool_gather_##NAME(const Pool* pool, int tasks, int threads, int channels, const T* x,              \
                                       int64_t next_x, const uint8_t* index, int64_t next_i, T* y) {                    \
        pool_gather<T>(*pool, tasks, threads, channels, x, next_x, index, next_i, y);                                   \
    }

extern "C" int vector_bytes() { return BYTES; }

EXPORT(float, float)
EXPORT(double, double)
