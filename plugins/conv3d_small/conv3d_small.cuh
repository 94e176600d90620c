// The first and the last convolution of a 3D-UNet in INT8, which have too few channels for a general kernel.
//
// Plain C++17 but for CUDA's keywords, a few intrinsics and instructions.cuh, which host_shim.hpp gives to any other
// compiler. Sums of products are exact in int32; a product and a sum in float32 follow, through __fmul_rn and
// __fadd_rn, which are never contracted to a fused multiply-add.
#pragma once

#include "instructions.cuh"

namespace trtforge {

constexpr int THREADS = 256;
constexpr int MOST_OUTPUTS = 8;  // of the last convolution

__device__ __forceinline__ float finished(int sum, float multiplier, float offset) {
    return __fadd_rn(__fmul_rn(__int2float_rn(sum), multiplier), offset);
}

__device__ __forceinline__ unsigned byte(int8 value) { return static_cast<unsigned char>(value); }

// ---- first: x int8 linear [N, 1, D, H, W], w [O, 1, 3, 3, 3], pad 1 -> y int8 CDHW32 [N, O / 32, D', H', W', 32] ----

// A block makes 32 channels of a tile of 8 x 8 x 32 voxels, a warp one row of each of the tile's planes.
constexpr int TILE_Z = 8, TILE_Y = THREADS / 32, TILE_X = 32;

struct First {
    int depth, height, width;              // of x
    int out_depth, out_height, out_width;  // of y
};

// What a tile needs of x, in words of 4 voxels. A row begins 4 voxels before the tile's first: one is the padding, the
// others bring the words of x to multiples of 4.
template <int STRIDE> struct Patch {
    static constexpr int WORDS = (STRIDE * (TILE_X - 1) + 3) / 4 + 2;
    static constexpr int ROWS = STRIDE * (TILE_Y - 1) + 3, PLANES = STRIDE * (TILE_Z - 1) + 3;
    static constexpr int SIZE = PLANES * ROWS * WORDS;
};

// Four voxels of a row from x on; those outside are 0.
__device__ __forceinline__ unsigned word_at(const int8 *row, int x, int width) {
    if (x >= 0 && x + 4 <= width && (reinterpret_cast<unsigned long long>(row + x) & 3) == 0)
        return *reinterpret_cast<const unsigned *>(row + x);
    unsigned word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (x + i >= 0 && x + i < width) word |= byte(row[x + i]) << 8 * i;
    return word;
}

template <int STRIDE>
__device__ __forceinline__ void load_patch(const int8 *x, unsigned *patch, const First &f, int z0, int y0, int x0) {
    using P = Patch<STRIDE>;
    for (int i = static_cast<int>(threadIdx.x); i < P::SIZE; i += THREADS) {
        const int word = i % P::WORDS, row = i / P::WORDS % P::ROWS, plane = i / P::WORDS / P::ROWS;
        const int z = STRIDE * z0 - 1 + plane, y = STRIDE * y0 - 1 + row;
        const bool inside = z >= 0 && z < f.depth && y >= 0 && y < f.height;
        const int8 *line = x + (static_cast<long long>(z) * f.height + y) * f.width;
        patch[i] = inside ? word_at(line, STRIDE * x0 - 4 + 4 * word, f.width) : 0;
    }
}

// A matrix product on tensor cores: 16 voxels of a row, by 27 taps in 32 places, by 8 channels, four times.
//
// The taps of a voxel lie in 9 rows (kz, ky) of 3. Row r < 8 takes places 4 r to 4 r + 2; the last row's three taps
// take the fourth places of rows 0, 1 and 2. So a lane gets its 4 places with one unaligned read of a row; what it
// reads into the other fourth places meets weights of 0. Column c of product t is channel 8 (c / 2) + 2 t + c % 2: a
// lane then holds 8 neighbouring channels of its voxels, and 4 lanes write the 32 bytes of a voxel.
template <int STRIDE>
__device__ __forceinline__ void first(const int8 *__restrict__ x, const int8 *__restrict__ weights,
                                      const float *__restrict__ multiplier, const float *__restrict__ offset,
                                      int8 *__restrict__ y, const First &f, unsigned (&patch)[Patch<STRIDE>::SIZE]) {
    using P = Patch<STRIDE>;
    const int tiles_x = (f.out_width + TILE_X - 1) / TILE_X, tiles_y = (f.out_height + TILE_Y - 1) / TILE_Y;
    const int tile = static_cast<int>(blockIdx.x), x0 = tile % tiles_x * TILE_X;
    const int y0 = tile / tiles_x % tiles_y * TILE_Y, z0 = tile / tiles_x / tiles_y * TILE_Z;
    const long long voxels = static_cast<long long>(f.depth) * f.height * f.width;
    load_patch<STRIDE>(x + blockIdx.z * voxels, patch, f, z0, y0, x0);

    const int warp = static_cast<int>(threadIdx.x) / 32, group = static_cast<int>(threadIdx.x) % 32 / 4;
    const int quarter = static_cast<int>(threadIdx.x) % 4, channel = static_cast<int>(blockIdx.y) * 32;
    unsigned b[4][2];
#pragma unroll
    for (int t = 0; t < 4; ++t) {
        const int8 *w = weights + (channel + group / 2 * 8 + 2 * t + group % 2) * 27, *low = w + 3 * quarter;
        b[t][0] = byte(low[0]) | byte(low[1]) << 8 | byte(low[2]) << 16;
        if (quarter < 3) b[t][0] |= byte(w[24 + quarter]) << 24;
        b[t][1] = byte(low[12]) | byte(low[13]) << 8 | byte(low[14]) << 16;
    }
    float scale[8], shift[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        scale[i] = multiplier[channel + quarter * 8 + i];
        shift[i] = offset[channel + quarter * 8 + i];
    }
    __syncthreads();
    const int row = y0 + warp;
    if (row >= f.out_height) return;

    const int low_row = quarter / 3 * P::ROWS + quarter % 3, high_row = (quarter + 4) / 3 * P::ROWS + (quarter + 4) % 3;
    const long long out_voxels = static_cast<long long>(f.out_depth) * f.out_height * f.out_width;
    int8 *out = y + (static_cast<long long>(blockIdx.z) * gridDim.y + blockIdx.y) * out_voxels * 32 + quarter * 8;
    for (int z = z0; z < z0 + TILE_Z && z < f.out_depth; ++z) {
        const int corner = STRIDE * (z - z0) * P::ROWS + STRIDE * warp;  // row of the patch
        const unsigned *low = patch + (corner + low_row) * P::WORDS, *high = patch + (corner + high_row) * P::WORDS;
        const auto last = reinterpret_cast<const unsigned char *>(patch + (corner + 2 * P::ROWS + 2) * P::WORDS);
        for (int left = 0; left < TILE_X && x0 + left < f.out_width; left += 16) {
            unsigned a[4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int at = STRIDE * (left + group + 8 * i) + 3, shift_bits = at % 4 * 8;  // first tap of the voxel
                const unsigned taps = __funnelshift_r(low[at / 4], low[at / 4 + 1], shift_bits);
                a[i] = __byte_perm(taps, last[at + quarter], 0x4210);
                a[i + 2] = __funnelshift_r(high[at / 4], high[at / 4 + 1], shift_bits);
            }
            int sum[4][4] = {};
#pragma unroll
            for (int t = 0; t < 4; ++t) mma_s8(sum[t], a, b[t][0], b[t][1]);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int column = x0 + left + group + 8 * i;
                if (column >= f.out_width) break;
                int q[8];
#pragma unroll
                for (int c = 0; c < 8; ++c)
                    q[c] = __float2int_rn(finished(sum[c / 2][2 * i + c % 2], scale[c], shift[c]));
                const long long voxel = (static_cast<long long>(z) * f.out_height + row) * f.out_width + column;
                *reinterpret_cast<uint2 *>(out + voxel * 32) = {pack_s8(q[0], q[1], q[2], q[3]),
                                                                pack_s8(q[4], q[5], q[6], q[7])};
            }
        }
    }
}

// ---- last: x int8 CDHW32 [N, C / 32, D, H, W, 32], w [O, C, 1, 1, 1] -> y float32, float16 linear [N, O, D, H, W] --

__device__ __forceinline__ void put(float value, float *to) { *to = value; }
__device__ __forceinline__ void put(float value, half *to) { *to = float_to_half(value); }

__device__ __forceinline__ int dot(const uint4 &a, const uint4 &b, int sum) {
    sum = __dp4a(static_cast<int>(a.x), static_cast<int>(b.x), sum);
    sum = __dp4a(static_cast<int>(a.y), static_cast<int>(b.y), sum);
    sum = __dp4a(static_cast<int>(a.z), static_cast<int>(b.z), sum);
    return __dp4a(static_cast<int>(a.w), static_cast<int>(b.w), sum);
}

// A thread makes all outputs of a voxel, whose 32 bytes it reads 16 at a time. All threads read the same weights.
template <typename T>
__device__ __forceinline__ void last(const int8 *__restrict__ x, const int8 *__restrict__ weights,
                                     const float *__restrict__ multiplier, const float *__restrict__ offset,
                                     T *__restrict__ y, int channels, int outputs, long long voxels) {
    const long long voxel = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x, sample = blockIdx.y;
    if (voxel >= voxels) return;
    const int blocks = channels / 32;
    const uint4 *from = reinterpret_cast<const uint4 *>(x) + 2 * (sample * blocks * voxels + voxel);
    const uint4 *w = reinterpret_cast<const uint4 *>(weights);
    int sum[MOST_OUTPUTS] = {};
    for (int block = 0; block < blocks; ++block) {
        const uint4 low = from[2 * block * voxels], high = from[2 * block * voxels + 1];
#pragma unroll
        for (int o = 0; o < MOST_OUTPUTS; ++o)
            if (o < outputs) {
                const uint4 *row = w + 2 * (o * blocks + block);
                sum[o] = dot(high, row[1], dot(low, row[0], sum[o]));
            }
    }
#pragma unroll
    for (int o = 0; o < MOST_OUTPUTS; ++o)
        if (o < outputs) put(finished(sum[o], multiplier[o], offset[o]), y + (sample * outputs + o) * voxels + voxel);
}

}  // namespace trtforge
