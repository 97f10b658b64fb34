// Task-batched layers on the CPU: a convolution and its two gradients, batch norm with a (leaky) ReLU and its first and
// second derivatives, a max-pool and its gradients. Every tensor is dense with the channels last; the leading dimension
// counts tasks, and a stride of 0 between tasks means that they share a tensor. Tasks are computed independently of each
// other, in an order of additions that depends on the shapes alone: results do not depend on how tasks are chunked or on
// the number of threads.
//
// Compiled by build.py beside it for the vector width that torch uses, without torch's headers: once with REAL=float and
// once with REAL=double.

#include "blocks.h"
#include "pooling.h"

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
    }                                                                                                                   \
    extern "C" int vector_bytes_##NAME() { return BYTES; }

#define EXPORT_OF(T) EXPORT(T, T)

EXPORT_OF(REAL)
