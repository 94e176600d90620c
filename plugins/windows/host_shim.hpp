// CUDA's keywords and intrinsics for a host compiler: kernel.cu compiles with it, and a loop over the launch takes the
// GPU's place. For tests; build with -ffp-contract=off, because __fmul_rn and its kin are never fused.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

struct dim3 {
    unsigned x, y, z;
};

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }

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

template <typename... P, std::size_t... I>
std::function<void()> launch(void (*kernel)(P...), dim3 grid, dim3 block, void *const *parameters,
                             std::index_sequence<I...>) {
    const std::tuple<P...> arguments{*static_cast<P *>(parameters[I])...};
    return [=] {
        gridDim = grid, blockDim = block;
        for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
            for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
                for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
                    for (threadIdx.z = 0; threadIdx.z < block.z; ++threadIdx.z)
                        for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y)
                            for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) std::apply(kernel, arguments);
    };
}

// A launch that is still to be run: the kernel once for every thread. `parameters` is what cuLaunchKernel takes, one
// address an argument; the arguments are copied now, as CUDA does it.
template <typename... P>
std::function<void()> launch(void (*kernel)(P...), dim3 grid, dim3 block, void *const *parameters) {
    return launch(kernel, grid, block, parameters, std::index_sequence_for<P...>{});
}

}  // namespace trtforge
