// Channels spread into cubes of 2x2x2 voxels, and a second tensor's channels put behind them, in one pass:
//
//     y[n, k, 2d+t, 2h+r, 2w+s] = x[n, 8k + 4t + 2r + s, d, h, w]        y[n, K + c, ...] = skip[n, c, ...]
//
// Plain C++17 but for CUDA's keywords, a few intrinsics and instructions.cuh, which host_shim.hpp gives to any other
// compiler.
#pragma once

#include "instructions.cuh"

namespace trtforge {

constexpr unsigned THREADS = 256;
constexpr unsigned COPIES = 4;  // pieces of 16 bytes that a thread copies

// What one launch does. The first blocks of every sample shuffle, the others copy the skip tensor.
struct Sizes {
    int channels, skip_channels;  // K, and how many come behind them
    int depth, height, width;     // of x
    int shuffling;                // blocks of a sample that shuffle
};

__device__ __forceinline__ bool aligned(const void *pointer) {
    return (reinterpret_cast<unsigned long long>(pointer) & 15) == 0;
}

__device__ __forceinline__ long long voxels_of(const Sizes &z) {
    return static_cast<long long>(z.depth) * z.height * z.width;
}

// ---- linear: x [N, 8K, D, H, W], y [N, K + skip, 2D, 2H, 2W], of elements of 2 or 4 bytes, which are only moved -----

template <typename T> union Half {  // 8 bytes of a row of x
    static constexpr int COUNT = 8 / sizeof(T);
    uint2 whole;
    T element[COUNT];
};

template <typename T> union Whole {  // 16 bytes of a row of y
    static constexpr int COUNT = 16 / sizeof(T);
    uint4 whole;
    T element[COUNT];
};

// A thread reads 8 bytes at one place of each of the 8 channels of a cube, and writes 16 bytes of each of the 4 rows
// they make: neighbours read and write neighbouring bytes. By element where rows do not begin on multiples of 16.
template <typename T>
__device__ __forceinline__ void shuffle(const T *__restrict__ x, T *__restrict__ y, const Sizes &z) {
    constexpr int COUNT = Half<T>::COUNT;
    const unsigned pieces = (z.width + COUNT - 1) / COUNT;
    unsigned at = blockIdx.x * THREADS + threadIdx.x;
    const int w = static_cast<int>(at % pieces) * COUNT;
    at /= pieces;
    const int h = static_cast<int>(at % z.height);
    at /= z.height;
    const int d = static_cast<int>(at % z.depth), k = static_cast<int>(at / z.depth);
    if (k >= z.channels) return;
    const bool whole = z.width % COUNT == 0 && aligned(x) && aligned(y);
    const int count = z.width - w < COUNT ? z.width - w : COUNT;

    const long long voxels = voxels_of(z), sample = blockIdx.y;
    const long long voxel = (static_cast<long long>(d) * z.height + h) * z.width + w;
    const T *from = x + (sample * z.channels + k) * 8 * voxels + voxel;
    Half<T> read[8];
#pragma unroll
    for (int tap = 0; tap < 8; ++tap) {
        if (whole) {
            read[tap].whole = *reinterpret_cast<const uint2 *>(from + tap * voxels);
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) read[tap].element[i] = i < count ? from[tap * voxels + i] : T{};
        }
    }
    T *to = y + (sample * (z.channels + z.skip_channels) + k) * 8 * voxels;
#pragma unroll
    for (int row = 0; row < 4; ++row) {
        const long long line = static_cast<long long>(2 * d + row / 2) * (2 * z.height) + 2 * h + row % 2;
        T *out = to + line * (2 * z.width) + 2 * w;
        Whole<T> made;
#pragma unroll
        for (int i = 0; i < 2 * COUNT; ++i) made.element[i] = read[2 * row + i % 2].element[i / 2];
        if (whole) {
            *reinterpret_cast<uint4 *>(out) = made.whole;
        } else {
#pragma unroll
            for (int i = 0; i < 2 * COUNT; ++i)
                if (i < 2 * count) out[i] = made.element[i];
        }
    }
}

// A channel of y is a multiple of 16 bytes long, so that only a tensor as a whole can miss the alignment.
template <typename T>
__device__ __forceinline__ void copy(const T *__restrict__ skip, T *__restrict__ y, const Sizes &z) {
    constexpr int COUNT = Whole<T>::COUNT;
    const long long channel = 8 * voxels_of(z), pieces = channel * z.skip_channels / COUNT, sample = blockIdx.y;
    const T *from = skip + sample * z.skip_channels * channel;
    T *to = y + (sample * (z.channels + z.skip_channels) + z.channels) * channel;
    const bool whole = aligned(skip) && aligned(y);
    const long long begin = static_cast<long long>(blockIdx.x - z.shuffling) * THREADS * COPIES + threadIdx.x;
    Whole<T> v[COPIES];
#pragma unroll
    for (int k = 0; k < static_cast<int>(COPIES); ++k) {
        const long long at = begin + k * THREADS;
        if (at >= pieces) continue;
        if (whole) {
            v[k].whole = reinterpret_cast<const uint4 *>(from)[at];
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) v[k].element[i] = from[at * COUNT + i];
        }
    }
#pragma unroll
    for (int k = 0; k < static_cast<int>(COPIES); ++k) {
        const long long at = begin + k * THREADS;
        if (at >= pieces) continue;
        if (whole) {
            reinterpret_cast<uint4 *>(to)[at] = v[k].whole;
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) to[at * COUNT + i] = v[k].element[i];
        }
    }
}

template <typename T>
__device__ __forceinline__ void shuffle_or_copy(const T *__restrict__ x, const T *__restrict__ skip, T *__restrict__ y,
                                                const Sizes &z) {
    if (static_cast<int>(blockIdx.x) < z.shuffling) {
        shuffle(x, y, z);
    } else {
        copy(skip, y, z);
    }
}

// ---- int8 in CDHW32 ------------------------------------------------------------------------------------------------

// Four values in steps of the output: clip(rint(q * ratio), -128, 127). A ratio of 1 changes nothing.
__device__ __forceinline__ unsigned rescaled(unsigned word, float ratio) {
    if (ratio == 1.0f) return word;
    int q[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
        q[i] = __float2int_rn(__fmul_rn(__int2float_rn(static_cast<int8>(word >> 8 * i)), ratio));
    return pack_s8(q[0], q[1], q[2], q[3]);
}

// Bytes of four words turned: out[i] has byte i of each.
__device__ __forceinline__ void transpose(unsigned a, unsigned b, unsigned c, unsigned d, unsigned *out) {
    const unsigned ab_low = __byte_perm(a, b, 0x5140), ab_high = __byte_perm(a, b, 0x7362);
    const unsigned cd_low = __byte_perm(c, d, 0x5140), cd_high = __byte_perm(c, d, 0x7362);
    out[0] = __byte_perm(ab_low, cd_low, 0x5410);
    out[1] = __byte_perm(ab_low, cd_low, 0x7632);
    out[2] = __byte_perm(ab_high, cd_high, 0x5410);
    out[3] = __byte_perm(ab_high, cd_high, 0x7632);
}

// A voxel's 32 bytes in x are 4 channels of y, 8 taps each. A thread turns them into 4 bytes of each of the 8 voxels of
// the cube; 8 neighbours, which read 8 channel blocks of x at the same voxel, fill those voxels' 32 bytes: every store
// writes whole sectors of memory.
__device__ __forceinline__ void shuffle_int8(const int8 *__restrict__ x, int8 *__restrict__ y, float ratio,
                                             const Sizes &z) {
    unsigned at = blockIdx.x * THREADS + threadIdx.x;
    const int part = static_cast<int>(at % 8);
    at /= 8;
    const int w = static_cast<int>(at % z.width);
    at /= z.width;
    const int h = static_cast<int>(at % z.height);
    at /= z.height;
    const int d = static_cast<int>(at % z.depth), block = static_cast<int>(at / z.depth);
    if (block * 32 >= z.channels) return;
    const int blocks_x = (z.channels + 3) / 4, block_x = block * 8 + part;
    const int there = z.channels - block_x * 4;  // channels of y in these 32 bytes; the others only fill the layout
    const long long voxels = voxels_of(z), sample = blockIdx.y;

    unsigned made[8] = {};
    if (there > 0) {
        const long long voxel = (static_cast<long long>(d) * z.height + h) * z.width + w;
        const uint4 *from = reinterpret_cast<const uint4 *>(x) + 2 * ((sample * blocks_x + block_x) * voxels + voxel);
        const uint4 a = from[0], b = from[1];
        transpose(a.x, a.z, b.x, b.z, made);
        transpose(a.y, a.w, b.y, b.w, made + 4);
        const unsigned kept = there >= 4 ? 0xffffffffu : (1u << 8 * there) - 1;
#pragma unroll
        for (int tap = 0; tap < 8; ++tap) made[tap] = rescaled(made[tap], ratio) & kept;
    }
    const int blocks_y = (z.channels + 31) / 32 + (z.skip_channels + 31) / 32;
    unsigned *to = reinterpret_cast<unsigned *>(y) + (sample * blocks_y + block) * 8 * voxels * 8 + part;
#pragma unroll
    for (int tap = 0; tap < 8; ++tap) {
        const long long line = static_cast<long long>(2 * d + tap / 4) * (2 * z.height) + 2 * h + tap / 2 % 2;
        to[(line * (2 * z.width) + 2 * w + tap % 2) * 8] = made[tap];
    }
}

__device__ __forceinline__ void copy_int8(const int8 *__restrict__ skip, int8 *__restrict__ y, float ratio,
                                          const Sizes &z) {
    const int blocks = z.channels / 32, skip_blocks = (z.skip_channels + 31) / 32;
    const long long block = 8 * voxels_of(z) * 2, pieces = block * skip_blocks, sample = blockIdx.y;
    const uint4 *from = reinterpret_cast<const uint4 *>(skip) + sample * pieces;
    uint4 *to = reinterpret_cast<uint4 *>(y) + (sample * (blocks + skip_blocks) + blocks) * block;
    const long long begin = static_cast<long long>(blockIdx.x - z.shuffling) * THREADS * COPIES + threadIdx.x;
    uint4 v[COPIES];
#pragma unroll
    for (int k = 0; k < static_cast<int>(COPIES); ++k)
        if (begin + k * THREADS < pieces) v[k] = from[begin + k * THREADS];
#pragma unroll
    for (int k = 0; k < static_cast<int>(COPIES); ++k)
        if (begin + k * THREADS < pieces)
            to[begin + k * THREADS] = {rescaled(v[k].x, ratio), rescaled(v[k].y, ratio), rescaled(v[k].z, ratio),
                                       rescaled(v[k].w, ratio)};
}

}  // namespace trtforge
