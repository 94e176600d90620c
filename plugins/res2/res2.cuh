// One bottleneck of ResNet-50's conv2_x in INT8: 1x1, 3x3 and 1x1 convolution, residual, ReLU, in one launch.
//
// Plain C++17 but for CUDA's keywords and the few functions of instructions.cuh, which host_shim.hpp gives to any other
// compiler: the tests run this very source on a CPU. The arithmetic is that of the ONNX function Res2Int8
// (function.py), bit for bit: sums in int32, then float32 products and sums rounded one by one, never a fused
// multiply-add.
//
// A block of threads makes TILE x TILE output pixels of one image. It computes 2a for these and one pixel around
// (HALO), then 2b, then 2c, and keeps all of it in shared memory. Weights come by as chunks of MID inputs x MID
// outputs, in the order of their use (pack.py), through a ring of STAGES; each chunk is one matrix product. Block a's
// input may be wider than MID: its convolutions then take several chunks of it, as block b's and c's 2a always does.
#pragma once

#include "instructions.cuh"

namespace trtforge::res2 {

constexpr int TILE = 8;          // output pixels of a block, along H and W
constexpr int HALO = TILE + 2;   // pixels under its 3x3 convolution
constexpr int PIXELS = TILE * TILE;
constexpr int HALO_PIXELS = HALO * HALO;
constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;
constexpr int GROUP = 32;        // channels that lie together in NC/32HW32, and K of a tensor core's product
constexpr int ROWS = 16;         // pixels of a tensor core's product
constexpr int STAGES = 3;

// x [N, IN / 32, H, W, 32], y [N, OUT / 32, H, W, 32]; weights and scales as pack.py makes them.
struct Operands {
    const int8 *__restrict__ x;
    int8 *__restrict__ y;
    const int8 *__restrict__ weights;
    const float *__restrict__ scales;
    int height, width;
};

// Pixels in shared memory, CHANNELS bytes each. Its units of 16 bytes are permuted within lines of 128 bytes (all
// banks), so that one unit of eight pixels that follow each other, the rows of a matrix load, lies in all banks.
template <int COUNT, int CHANNELS> struct Rows {
    alignas(128) int8 bytes[COUNT * CHANNELS];

    __device__ __forceinline__ int8 *unit(int pixel, int unit) {
        constexpr int UNITS = CHANNELS / 16, LINE = UNITS < 8 ? 8 / UNITS : 1;  // pixels in a line
        return bytes + (pixel * UNITS + (unit ^ (pixel / LINE % (8 / LINE)))) * 16;
    }

    // Eight channels, from a multiple of eight on.
    __device__ __forceinline__ uint2 &eight(int pixel, int channel) {
        return *reinterpret_cast<uint2 *>(unit(pixel, channel / 16) + channel % 16);
    }
};

template <int IN_, int MID_, bool PROJECTION_> struct Shape {
    static constexpr bool PROJECTION = PROJECTION_;
    static constexpr int IN = IN_, MID = MID_, OUT = 4 * MID;
    static_assert(MID % GROUP == 0 && IN % MID == 0 && (PROJECTION || IN == OUT));
    static constexpr int CHUNK = MID * MID;     // bytes of a chunk of weights
    static constexpr int REDUCING = IN / MID;   // chunks of 2a, and of branch1 for each MID of its outputs
    static constexpr int EXPANDING = OUT / MID; // chunks of 2c
    static constexpr int CHUNKS = REDUCING + 9 + EXPANDING * (PROJECTION ? REDUCING + 1 : 1);
    // scales: M and B of each convolution, MID or OUT floats each, then R.
    static constexpr int AT_2A = 0, AT_2B = 2 * MID, AT_BRANCH1 = 4 * MID;
    static constexpr int AT_2C = AT_BRANCH1 + (PROJECTION ? 2 * OUT : 0), AT_R = AT_2C + 2 * OUT;
};

template <typename S> struct Shared {
    Rows<HALO_PIXELS, S::IN> x;
    Rows<HALO_PIXELS, S::MID> a;  // what 2a makes
    Rows<PIXELS, S::MID> b;       // what 2b makes
    alignas(128) int8 weights[STAGES][S::CHUNK];
};

// M and B of eight channels.
struct Scales {
    float m[8], b[8];
};

__device__ __forceinline__ Scales scales_of(const float *convolution, int channels, int channel) {
    const float *m = convolution + channel, *b = m + channels;
    Scales made;
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        *reinterpret_cast<float4 *>(made.m + i) = *reinterpret_cast<const float4 *>(m + i);
        *reinterpret_cast<float4 *>(made.b + i) = *reinterpret_cast<const float4 *>(b + i);
    }
    return made;
}

// float(acc) is exact: |acc| <= 9 * 64 * 128 * 128 = 9437184 < 2^24 in the largest sum, that of 2b.
__device__ __forceinline__ float scaled(int sum, const Scales &scales, int i) {
    return __fadd_rn(__fmul_rn(__int2float_rn(sum), scales.m[i]), scales.b[i]);
}

// Half to even. `pack_s8` does the clipping at -128 and 127.
template <bool RELU> __device__ __forceinline__ int rounded(float value) {
    const int whole = __float2int_rn(value);
    return RELU && whole < 0 ? 0 : whole;
}

// A lane's sums of one pixel into eight int8 channels. `sums` are a warp's products over four groups of 8 columns; a
// lane has columns 2 * (lane % 4) and the next of each, in rows lane / 4 (first two) and lane / 4 + 8 (last two).
// pack.py has put channels 8 * (lane % 4) to 8 * (lane % 4) + 7 there, in order.
template <bool RELU>
__device__ __forceinline__ uint2 quantized(const int (&sums)[4][4], int half, const Scales &scales) {
    int q[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) q[i] = rounded<RELU>(scaled(sums[i / 2][half * 2 + i % 2], scales, i));
    return {pack_s8(q[0], q[1], q[2], q[3]), pack_s8(q[4], q[5], q[6], q[7])};
}

// The same with a residual added before it is rounded, and ReLU.
__device__ __forceinline__ uint2 quantized(const int (&sums)[4][4], int half, const Scales &scales, uint2 residual,
                                           float rescale) {
    int q[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int other = static_cast<int8>((i < 4 ? residual.x : residual.y) >> (i % 4 * 8) & 0xff);
        const float value = scaled(sums[i / 2][half * 2 + i % 2], scales, i);
        q[i] = rounded<true>(__fadd_rn(value, __fmul_rn(__int2float_rn(other), rescale)));
    }
    return {pack_s8(q[0], q[1], q[2], q[3]), pack_s8(q[4], q[5], q[6], q[7])};
}

template <typename S> struct Bottleneck {
    static constexpr int ACROSS = S::MID / GROUP;   // warps along output channels, 32 each
    static constexpr int DOWN = WARPS / ACROSS;     // warps along pixels, ROWS each in turn
    static constexpr int TILES = PIXELS / ROWS / DOWN;  // of ROWS pixels, a warp
    static constexpr int HALO_ALL = (HALO_PIXELS + ROWS - 1) / ROWS;
    static constexpr int HALO_TILES = (HALO_ALL + DOWN - 1) / DOWN;

    Operands to;
    Shared<S> &shared;
    const int lane = threadIdx.x % 32;
    const int warp_down = threadIdx.x / 32 / ACROSS, warp_across = threadIdx.x / 32 % ACROSS;
    const int top = blockIdx.y * TILE, left = blockIdx.x * TILE;
    const long long image = blockIdx.z;
    const int channel = warp_across * GROUP + lane % 4 * 8;  // this lane's first of a chunk's outputs
    int chunk = 0;

    __device__ __forceinline__ void run() {
        fetch(0);
        fetch(1);
        reduce();
        convolve();
        expand();
    }

    // Starts the copies of a chunk of weights, and of the part of x that it is multiplied with.
    __device__ __forceinline__ void fetch(int which) {
        if (which < S::CHUNKS) {
            const int8 *from = to.weights + which * S::CHUNK;
#pragma unroll
            for (int first = 0; first < S::CHUNK; first += THREADS * 16) {
                const int at = first + static_cast<int>(threadIdx.x) * 16;
                if (at < S::CHUNK) copy_async(shared.weights[which % STAGES] + at, from + at, true);
            }
        }
        if (which < S::REDUCING) {
            constexpr int UNITS = HALO_PIXELS * S::MID / 16;
#pragma unroll
            for (int first = 0; first < UNITS; first += THREADS) {
                const int i = first + threadIdx.x, pixel = i / 2 % HALO_PIXELS;
                const int group = which * (S::MID / GROUP) + i / (2 * HALO_PIXELS);
                const int y = top - 1 + pixel / HALO, x = left - 1 + pixel % HALO;
                const bool inside = in_image(y, x);
                const int8 *from = inside ? to.x + offset(S::IN, group, y, x) + i % 2 * 16 : to.x;
                if (i < UNITS) copy_async(shared.x.unit(pixel, 2 * group + i % 2), from, inside);
            }
        }
        commit_copies();
    }

    // The next chunk of weights, in shared memory. What any thread wrote there before is visible from here on, and
    // the chunk before is done with, so that its place takes the one after next.
    __device__ __forceinline__ const int8 *next() {
        wait_copies<1>();
        __syncthreads();
        fetch(chunk + 2);
        return shared.weights[chunk++ % STAGES];
    }

    // 2a over the tile and its halo. Outside the image it is 0, the padding of 2b.
    __device__ __forceinline__ void reduce() {
        int sums[HALO_TILES][4][4] = {};
        const auto halo = [](int pixel) { return pixel < HALO_PIXELS ? pixel : HALO_PIXELS - 1; };
        for (int part = 0; part < S::REDUCING; ++part) multiply<HALO_ALL>(sums, shared.x, part * S::MID, next(), halo);
        const Scales scales = scales_of(to.scales + S::AT_2A, S::MID, channel);
#pragma unroll
        for (int i = 0; i < HALO_TILES * 2; ++i) {
            const int pixel = pixel_of(i);
            if (pixel >= HALO_PIXELS) continue;
            const bool inside = in_image(top - 1 + pixel / HALO, left - 1 + pixel % HALO);
            shared.a.eight(pixel, channel) = inside ? quantized<true>(sums[i / 2], i % 2, scales) : uint2{0, 0};
        }
    }

    // 2b: nine chunks, each over the halo shifted by a tap of the filter.
    __device__ __forceinline__ void convolve() {
        int sums[TILES][4][4] = {};
        for (int tap = 0; tap < 9; ++tap) {
            const auto shifted = [=](int pixel) { return under(pixel, tap / 3, tap % 3); };
            multiply<PIXELS / ROWS>(sums, shared.a, 0, next(), shifted);
        }
        const Scales scales = scales_of(to.scales + S::AT_2B, S::MID, channel);
#pragma unroll
        for (int i = 0; i < TILES * 2; ++i)
            shared.b.eight(pixel_of(i), channel) = quantized<true>(sums[i / 2], i % 2, scales);
    }

    // branch1 and 2c, MID output channels at a time, and the block's output.
    __device__ __forceinline__ void expand() {
        const float rescale = to.scales[S::AT_R];
        for (int part = 0; part < S::EXPANDING; ++part) {
            const int out = part * S::MID + channel;
            uint2 residual[TILES * 2];
            shortcut(residual, out);
            int sums[TILES][4][4] = {};
            multiply<PIXELS / ROWS>(sums, shared.b, 0, next(), [](int pixel) { return pixel; });
            const Scales scales = scales_of(to.scales + S::AT_2C, S::OUT, out);
#pragma unroll
            for (int i = 0; i < TILES * 2; ++i) {
                const int y = top + pixel_of(i) / TILE, x = left + pixel_of(i) % TILE;
                const uint2 made = quantized(sums[i / 2], i % 2, scales, residual[i], rescale);
                if (in_image(y, x))  // four lanes write the 32 bytes of a pixel, a warp a row of pixels
                    *reinterpret_cast<uint2 *>(to.y + offset(S::OUT, out / GROUP, y, x) + out % GROUP) = made;
            }
        }
    }

    // What is added to 2c: the block's input, or branch1 of it.
    __device__ __forceinline__ void shortcut(uint2 (&residual)[TILES * 2], int out) {
        if constexpr (S::PROJECTION) {
            int sums[TILES][4][4] = {};
            const auto centre = [](int pixel) { return under(pixel, 1, 1); };
            for (int part = 0; part < S::REDUCING; ++part)
                multiply<PIXELS / ROWS>(sums, shared.x, part * S::MID, next(), centre);
            const Scales scales = scales_of(to.scales + S::AT_BRANCH1, S::OUT, out);
#pragma unroll
            for (int i = 0; i < TILES * 2; ++i) residual[i] = quantized<false>(sums[i / 2], i % 2, scales);
        } else {
#pragma unroll
            for (int i = 0; i < TILES * 2; ++i) residual[i] = shared.x.eight(under(pixel_of(i), 1, 1), out);
        }
    }

    // sums += pixels x chunk, for a warp's 32 columns and its share of ALL tiles of ROWS pixels: every DOWN-th.
    // `row` says which row of `rows` a pixel is; its channels begin at `first`.
    template <int ALL, int COUNT, typename From, typename Row>
    __device__ __forceinline__ void multiply(int (&sums)[COUNT][4][4], From &rows, int first, const int8 *weights,
                                             Row row) {
#pragma unroll
        for (int k = 0; k < S::MID / GROUP; ++k) {
            const uint4 *from = reinterpret_cast<const uint4 *>(weights) + (k * ACROSS + warp_across) * 64 + lane;
            const uint4 even = from[0], odd = from[32];
            const int unit = first / 16 + 2 * k + lane / 16;
            unsigned pixels[COUNT][4];
#pragma unroll
            for (int i = 0; i < COUNT; ++i)
                if (has<ALL>(i)) load_matrices(pixels[i], rows.unit(row(tile_of(i) * ROWS + lane % 16), unit));
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                if (!has<ALL>(i)) continue;
                mma_s8(sums[i][0], pixels[i], even.x, even.y);
                mma_s8(sums[i][1], pixels[i], even.z, even.w);
                mma_s8(sums[i][2], pixels[i], odd.x, odd.y);
                mma_s8(sums[i][3], pixels[i], odd.z, odd.w);
            }
        }
    }

    // A warp's i-th tile of ROWS pixels, and whether there is one.
    __device__ __forceinline__ int tile_of(int i) const { return warp_down + DOWN * i; }
    template <int ALL> __device__ __forceinline__ bool has(int i) const {
        return DOWN * (i + 1) <= ALL || tile_of(i) < ALL;  // the first is known to the compiler
    }

    // The pixel whose sums this lane has, for the i-th half of its warp's tiles.
    __device__ __forceinline__ int pixel_of(int i) const {
        return tile_of(i / 2) * ROWS + i % 2 * 8 + lane / 4;
    }

    // The pixel of the halo under one of the tile at a tap of the 3x3 filter.
    __device__ __forceinline__ static int under(int pixel, int dy, int dx) {
        return (pixel / TILE + dy) * HALO + pixel % TILE + dx;
    }

    __device__ __forceinline__ bool in_image(int y, int x) const {
        return static_cast<unsigned>(y) < static_cast<unsigned>(to.height) &&
               static_cast<unsigned>(x) < static_cast<unsigned>(to.width);
    }

    // Of a pixel's group of 32 channels in NC/32HW32.
    __device__ __forceinline__ long long offset(int channels, int group, int y, int x) const {
        return (((image * (channels / GROUP) + group) * to.height + y) * to.width + x) * GROUP;
    }
};

}  // namespace trtforge::res2
