// Vectors of the processor, and tensors of all tasks.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
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
constexpr int HALF = COLUMNS > 1 ? COLUMNS / 2 : 1; // columns of a tile of twice as many rows

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

// A tensor of all tasks, and how many elements lie between two of them.
template <class T> struct Tasks {
    T* first;
    int64_t next;
    T* operator[](int task) const { return first + task * next; }
};

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

// Calls `body(column, width)` for the columns from the first on, as many at a time as there is a tile for; `width` is an
// integral constant: the number of vectors.
template <class T, class Body> inline void over_columns(int columns, Body body) {
    int c = 0;
    for (; c + COLUMNS * LANES<T> <= columns; c += COLUMNS * LANES<T>) body(c, std::integral_constant<int, COLUMNS>());
    for (; c + HALF * LANES<T> <= columns; c += HALF * LANES<T>) body(c, std::integral_constant<int, HALF>());
    for (; c < columns; c += LANES<T>) body(c, std::integral_constant<int, 1>());
}

// Memory of a kernel's own, which begins a cache line and is not initialised.
template <class T> class Buffer {
    static constexpr std::align_val_t LINE{64};
    T* memory;

  public:
    explicit Buffer(int64_t count)
        : memory(count ? static_cast<T*>(::operator new(count * sizeof(T), LINE)) : nullptr) {}
    ~Buffer() { ::operator delete(memory, LINE); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T* get() const { return memory; }
};
