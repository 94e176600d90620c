// CUDA's keywords and intrinsics for a host compiler, with barriers: a plugin's kernel.cu compiles with it. For tests.
//
// The threads of a block are coroutines, one after the other on one processor; a barrier switches to the next thread.
// They run in ascending or in descending order: a kernel that lacks a barrier gives other results in one of them. A
// barrier that not every thread reaches ends the program. Build with -ffp-contract=off: __fmul_rn and its kin are
// never fused.
#pragma once

#include <math.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(threads)

struct alignas(8) uint2 {
    unsigned x, y;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

struct dim3 {
    unsigned x, y, z;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline float __double2float_rn(double value) { return static_cast<float>(value); }
inline float __int2float_rn(int value) { return static_cast<float>(value); }

// Half to even; saturates; NaN: 0.
inline int __float2int_rn(float value) {
    if (value != value) return 0;
    const float rounded = rintf(value);
    return rounded >= 0x1p31f ? 0x7fffffff : rounded < -0x1p31f ? -0x7fffffff - 1 : static_cast<int>(rounded);
}

inline int __dp4a(int a, int b, int sum) {
    for (int shift = 0; shift < 32; shift += 8)
        sum += static_cast<signed char>(a >> shift) * static_cast<signed char>(b >> shift);
    return sum;
}

// Four of the eight bytes of (high:low), chosen by the digits of `selector`, the lowest first.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const unsigned long long bytes = static_cast<unsigned long long>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
    return result;
}

// The low word of (high:low) >> (shift & 31).
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> (shift & 31));
}

namespace trtforge {

inline float half_to_float(unsigned short bits) {
    const unsigned magnitude = (bits & 0x7fffu) << 13;  // its exponent, 112 too small for a float
    const bool finite = magnitude < 0x0f800000u;
    const unsigned scaled = finite ? magnitude : magnitude | 0x7f800000u;
    float value;
    std::memcpy(&value, &scaled, 4);
    if (finite) value *= 0x1p112f;
    return bits & 0x8000u ? -value : value;
}

// Half to even; too large: infinity.
inline unsigned short float_to_half(float value) {
    const unsigned short sign = signbit(value) ? 0x8000u : 0;
    const float magnitude = fabsf(value);
    if (magnitude != magnitude) return 0x7fffu;
    if (magnitude >= 65520.0f) return sign | 0x7c00u;  // half way from the largest to the next power of two
    if (magnitude < 0x1p-14f) return sign | static_cast<unsigned short>(rintf(magnitude * 0x1p24f));
    unsigned bits;
    std::memcpy(&bits, &magnitude, 4);
    bits += 0x0fffu + ((bits >> 13) & 1);
    return sign | static_cast<unsigned short>((bits >> 13) - (112u << 10));
}

namespace host {

using Kernel = std::function<void()>;

constexpr int WARP = 32;
constexpr std::size_t STACK = 64 << 10;

struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    dim3 index{};
    bool done = false;
};

struct Barrier {
    unsigned arrived = 0, generation = 0;
};

// A warp's operands of a collective instruction, by lane.
struct Lane {
    unsigned a[4], b[2];
    int value;
};

// The block that runs now.
struct Block {
    ucontext_t scheduler;
    std::vector<Thread> threads;
    std::vector<Lane> lanes;
    std::vector<Barrier> warps;
    Barrier all;
    unsigned size = 0, current = 0;
    bool moved = false;  // since the last look: a barrier opened or a thread ended
    const Kernel *kernel = nullptr;
};

inline Block block;

inline void wait(Barrier &barrier, unsigned expected) {
    const unsigned generation = barrier.generation;
    if (++barrier.arrived == expected) {
        barrier.arrived = 0;
        ++barrier.generation;
        block.moved = true;
        return;
    }
    while (barrier.generation == generation) swapcontext(&block.threads[block.current].context, &block.scheduler);
}

inline unsigned warp() { return block.current / WARP; }

inline unsigned warp_size() {
    const unsigned first = warp() * WARP;
    return block.size - first < WARP ? block.size - first : WARP;
}

inline void entry() {
    (*block.kernel)();
    block.threads[block.current].done = block.moved = true;
}

inline void begin(unsigned number, dim3 shape) {
    Thread &thread = block.threads[number];
    thread.index = {number % shape.x, number / shape.x % shape.y, number / shape.x / shape.y};
    thread.done = false;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = &block.scheduler;
    makecontext(&thread.context, entry, 0);
}

inline void run_block(const Kernel &kernel, dim3 shape, bool descending) {
    block.size = shape.x * shape.y * shape.z;
    if (block.threads.size() < block.size) block.threads = std::vector<Thread>(block.size);
    block.lanes.assign(block.size, {});
    block.warps.assign((block.size + WARP - 1) / WARP, {});
    block.all = {};
    block.kernel = &kernel;
    for (unsigned i = 0; i < block.size; ++i) begin(i, shape);
    for (unsigned running = block.size; running > 0;) {
        block.moved = false;
        running = 0;
        for (unsigned i = 0; i < block.size; ++i) {
            block.current = descending ? block.size - 1 - i : i;
            Thread &thread = block.threads[block.current];
            if (thread.done) continue;
            threadIdx = thread.index;
            swapcontext(&block.scheduler, &thread.context);
            running += !thread.done;
        }
        if (!block.moved) {
            std::fprintf(stderr, "a barrier was not reached by every thread\n");
            std::abort();
        }
    }
}

}  // namespace host

// mma.sync.m16n8k32 of int8: d += a * b. Fragments as the PTX manual lays them out; g = lane / 4, t = lane % 4:
// a: rows g and g + 8, k = 4 t + 0..3, then the same rows with k + 16; b: k = 4 t + 0..3 and k + 16, column g;
// d: row g, columns 2 t and 2 t + 1, then row g + 8.
inline void mma_s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    using namespace host;
    const unsigned first = warp() * WARP, lane = block.current - first;
    std::memcpy(block.lanes[block.current].a, a, sizeof a);
    std::memcpy(block.lanes[block.current].b, b, sizeof b);
    wait(block.warps[warp()], WARP);
    for (int i = 0; i < 4; ++i) {
        const unsigned high_row = i / 2, group = lane / 4, column = lane % 4 * 2 + i % 2;
        for (unsigned t = 0; t < 4; ++t)
            for (unsigned high_k = 0; high_k < 2; ++high_k)
                d[i] = __dp4a(block.lanes[first + group * 4 + t].a[2 * high_k + high_row],
                              block.lanes[first + column * 4 + t].b[high_k], d[i]);
    }
    wait(block.warps[warp()], WARP);
}

// Four numbers as bytes, the first lowest; saturates.
inline unsigned pack_s8(int a, int b, int c, int d) {
    const auto byte = [](int value) {
        return static_cast<unsigned>(value < -128 ? -128 : value > 127 ? 127 : value) & 255;
    };
    return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
}

template <typename... P, std::size_t... I>
host::Kernel bound(void (*kernel)(P...), void *const *parameters, std::index_sequence<I...>) {
    const std::tuple<P...> arguments{*static_cast<P *>(parameters[I])...};
    return [=] { std::apply(kernel, arguments); };
}

// The kernel once for every thread. `parameters` is what cuLaunchKernel takes, one address an argument.
template <typename... P>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, void *const *parameters, bool descending) {
    const host::Kernel run = bound(kernel, parameters, std::index_sequence_for<P...>{});
    gridDim = grid, blockDim = block;
    const unsigned long long blocks = 1ull * grid.x * grid.y * grid.z;
    for (unsigned long long i = 0; i < blocks; ++i) {
        const unsigned long long at = descending ? blocks - 1 - i : i;
        blockIdx = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                    static_cast<unsigned>(at / grid.x / grid.y)};
        host::run_block(run, block, descending);
    }
}

}  // namespace trtforge

inline void __syncthreads() { trtforge::host::wait(trtforge::host::block.all, trtforge::host::block.size); }

// The sum over the lanes of the caller's mask. Every lane of the warp calls it, each with a mask it belongs to.
inline int __reduce_add_sync(unsigned mask, int value) {
    using namespace trtforge::host;
    const unsigned first = warp() * WARP;
    block.lanes[block.current].value = value;
    wait(block.warps[warp()], warp_size());
    int sum = 0;
    for (unsigned lane = 0; lane < warp_size(); ++lane)
        if (mask >> lane & 1) sum += block.lanes[first + lane].value;
    wait(block.warps[warp()], warp_size());
    return sum;
}
