// CUDA's keywords and intrinsics, and those of instructions.cuh, for a host compiler: a plugin's kernel.cu compiles with
// it. For tests. Three parts: CUDA's words, which are here; the threads of a block (host_block.hpp); and, here again,
// what a warp does together.
//
// Build with -ffp-contract=off, because __fmul_rn and its kin are never fused, and with -fsanitize=alignment: a uint4
// that is read or written where it may not lie ends the program, as it would end a launch.
#pragma once

#include <math.h>

#include <tuple>

#include "host_block.hpp"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
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
    return rounded >= 0x1p31f ? INT32_MAX : rounded < -0x1p31f ? INT32_MIN : static_cast<int>(rounded);
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

inline void __syncthreads(int line = __builtin_LINE()) { trtforge::host::block.barrier(line); }

// The sum over the lanes of the mask. They all come here with this mask.
inline int __reduce_add_sync(unsigned mask, int value) {
    int sum = 0;
    const trtforge::host::Operands mine{"redux", mask, &sum, nullptr, {static_cast<unsigned>(value), 0}, nullptr};
    trtforge::host::block.collective(mine, [mask](trtforge::host::Thread *warp) {
        unsigned all = 0;
        for (unsigned lane = 0; lane < 32; ++lane)
            if (mask >> lane & 1) all += warp[lane].operands.b[0];
        for (unsigned lane = 0; lane < 32; ++lane)
            if (mask >> lane & 1) *static_cast<int *>(warp[lane].operands.out) = static_cast<int>(all);
    });
    return sum;
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

inline unsigned pack_s8(int a, int b, int c, int d) {
    unsigned word = 0;
    for (const int value : {d, c, b, a})
        word = word << 8 | (static_cast<unsigned>(value < -128 ? -128 : value > 127 ? 127 : value) & 0xff);
    return word;
}

// Counts the rows that lie in banks that another row of their matrix has taken.
inline void load_matrices(unsigned (&made)[4], const void *row) {
    host::block.collective({"ldmatrix", ~0u, made, nullptr, {}, row}, [](host::Thread *warp) {
        for (int matrix = 0; matrix < 4; ++matrix) {
            std::uintptr_t banks[8] = {};  // the row that lies in each 16 bytes of them
            for (int lane = 0; lane < 32; ++lane) {
                const char *from = static_cast<const char *>(warp[matrix * 8 + lane / 4].operands.row);
                std::memcpy(static_cast<unsigned *>(warp[lane].operands.out) + matrix, from + lane % 4 * 4, 4);
                const auto address = reinterpret_cast<std::uintptr_t>(from);
                if (address % 16 != 0) host::fail("a matrix row is not on a multiple of 16 bytes");
                std::uintptr_t &bank = banks[address / 16 % 8];
                if (bank != 0 && bank != address) ++host::block.conflicts;
                bank = address;
            }
        }
    });
}

// Register r of lane l holds, of a: row l / 4 + 8 * (r % 2), k from 4 * (l % 4) + 16 * (r / 2) on; of b: column l / 4,
// the same k with r for r / 2; of the sums: row l / 4 + 8 * (r / 2), column 2 * (l % 4) + r % 2.
inline void mma_s8(int (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    host::block.collective({"mma", ~0u, sums, a, {b0, b1}, nullptr}, [](host::Thread *warp) {
        const auto byte = [](unsigned word, int i) { return static_cast<signed char>(word >> 8 * i & 0xff); };
        int left[16][32], right[8][32];
        for (int lane = 0; lane < 32; ++lane) {
            for (int r = 0; r < 4; ++r)
                for (int i = 0; i < 4; ++i)
                    left[lane / 4 + 8 * (r % 2)][lane % 4 * 4 + 16 * (r / 2) + i] = byte(warp[lane].operands.a[r], i);
            for (int r = 0; r < 2; ++r)
                for (int i = 0; i < 4; ++i) right[lane / 4][lane % 4 * 4 + 16 * r + i] = byte(warp[lane].operands.b[r], i);
        }
        for (int lane = 0; lane < 32; ++lane)
            for (int r = 0; r < 4; ++r) {
                const int *row = left[lane / 4 + 8 * (r / 2)], *column = right[lane % 4 * 2 + r % 2];
                int sum = 0;
                for (int k = 0; k < 32; ++k) sum += row[k] * column[k];
                static_cast<int *>(warp[lane].operands.out)[r] += sum;
            }
    });
}

inline void copy_async(void *to, const void *from, bool read) { host::block.copy({to, from, read}); }
inline void commit_copies() { host::block.commit(); }
template <int PENDING> void wait_copies() { host::block.wait(PENDING); }

namespace host {

// A launch that is still to be run. `parameters` is what cuLaunchKernel takes, one address an argument; the arguments
// are copied now, as CUDA does it.
using Launch = std::function<long(Schedule)>;

template <typename... P, std::size_t... I>
Launch prepared(void (*kernel)(P...), dim3 grid, dim3 shape, void *const *parameters, std::index_sequence<I...>) {
    const std::tuple<P...> arguments{*static_cast<P *>(parameters[I])...};
    return [=](Schedule schedule) {
        return block.launch(grid, shape, schedule, [&] { std::apply(kernel, arguments); });
    };
}

template <typename... P>
Launch prepared(void (*kernel)(P...), dim3 grid, dim3 shape, void *const *parameters) {
    return prepared(kernel, grid, shape, parameters, std::index_sequence_for<P...>{});
}

}  // namespace host

}  // namespace trtforge
