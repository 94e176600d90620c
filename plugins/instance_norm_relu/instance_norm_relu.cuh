// InstanceNormalization and Relu in two passes over the data: sums of every channel, then the normalised values.
//
// Plain C++17 but for CUDA's keywords, a few intrinsics and instructions.cuh, which host_shim.hpp gives to any other
// compiler.
// Arithmetic goes through __fmul_rn, __dadd_rn and their kin, which are never contracted to a fused multiply-add, and
// sums have one order that follows from the shape alone: the same bits on every run, every GPU and the host.
#pragma once

#include "instructions.cuh"

namespace trtforge {

constexpr int THREADS = 256;         // of `sums` and `apply`
constexpr int TOGETHER = 4;          // reads of 16 bytes that a thread has under way
constexpr int MERGING = 64;          // threads of `coefficients`
constexpr int MERGING_INT8 = 512;    // threads of `coefficients_int8`: 8 for each of 64 sums

__device__ __forceinline__ float to_float(half bits) { return half_to_float(bits); }
__device__ __forceinline__ float to_float(float value) { return value; }

template <typename T> __device__ __forceinline__ T from_float(float value) {
    if constexpr (sizeof(T) == 2) {
        return float_to_half(value);
    } else {
        return value;
    }
}

__device__ __forceinline__ float relu(float value) { return value < 0.0f ? 0.0f : value; }  // NaN stays

template <typename T> union Vector {
    static constexpr int COUNT = 16 / sizeof(T);
    uint4 whole;
    T element[COUNT];
};

// 16 bytes at `from`, of which `count` elements are there; at once where all are and begin on a multiple of 16. The
// others are `fill`.
template <typename T> __device__ __forceinline__ Vector<T> loaded(const T *from, int count, T fill) {
    Vector<T> v;
    if (count >= v.COUNT && (reinterpret_cast<unsigned long long>(from) & 15) == 0) {
        v.whole = *reinterpret_cast<const uint4 *>(from);
    } else {
#pragma unroll
        for (int i = 0; i < v.COUNT; ++i) v.element[i] = i < count ? from[i] : fill;
    }
    return v;
}

template <typename T> __device__ __forceinline__ void stored(const Vector<T> &v, T *to, int count) {
    if (count >= v.COUNT && (reinterpret_cast<unsigned long long>(to) & 15) == 0) {
        *reinterpret_cast<uint4 *>(to) = v.whole;
    } else {
#pragma unroll
        for (int i = 0; i < v.COUNT; ++i)
            if (i < count) to[i] = v.element[i];
    }
}

// Sum of x and of x * x.
struct Moments {
    double sum, squares;
};

__device__ __forceinline__ Moments operator+(const Moments &a, const Moments &b) {
    return {__dadd_rn(a.sum, b.sum), __dadd_rn(a.squares, b.squares)};
}

// The block's moments, in thread 0: a tree that halves the number of threads until one is left.
template <int COUNT> __device__ __forceinline__ Moments reduced(Moments mine, Moments (&shared)[COUNT]) {
    const int thread = static_cast<int>(threadIdx.x);
    shared[thread] = mine;
#pragma unroll
    for (int left = COUNT / 2; left > 0; left /= 2) {
        __syncthreads();
        if (thread < left) shared[thread] = mine = mine + shared[thread + left];
    }
    return mine;
}

template <typename T> __device__ __forceinline__ float pairwise(const float (&values)[Vector<T>::COUNT]) {
    float sum[Vector<T>::COUNT];
#pragma unroll
    for (int i = 0; i < Vector<T>::COUNT; ++i) sum[i] = values[i];
#pragma unroll
    for (int left = Vector<T>::COUNT / 2; left > 0; left /= 2)
#pragma unroll
        for (int i = 0; i < left; ++i) sum[i] = __fadd_rn(sum[i], sum[i + left]);
    return sum[0];
}

// ---- float: x [channels, voxels], channels = N * C -----------------------------------------------------------------

// A block sums one chunk of one channel. A thread takes 16 bytes of every 4096 and sums differences to its own first
// element in float32: squares of the values themselves would lose the variance behind a large mean. Its sums are exact
// enough for double from there on.
template <typename T>
__device__ __forceinline__ void sums(const T *__restrict__ x, Moments *__restrict__ partial, long long voxels,
                                     int chunk, Moments (&shared)[THREADS]) {
    constexpr int COUNT = Vector<T>::COUNT, STEP = THREADS * COUNT;
    const long long begin = static_cast<long long>(blockIdx.y) * chunk;
    const int length = static_cast<int>(voxels - begin < chunk ? voxels - begin : chunk);
    const T *from = x + blockIdx.x * voxels + begin;
    const int first = static_cast<int>(threadIdx.x) * COUNT;
    const T own = first < length ? from[first] : T{};
    float sum[COUNT] = {}, squares[COUNT] = {};
    const float pivot = to_float(own);
    int count = 0;
    for (int at = first; at < length; at += TOGETHER * STEP) {
        Vector<T> v[TOGETHER];
#pragma unroll
        for (int k = 0; k < TOGETHER; ++k) v[k] = loaded(from + at + k * STEP, length - at - k * STEP, own);
#pragma unroll
        for (int k = 0; k < TOGETHER; ++k) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                const float difference = __fsub_rn(to_float(v[k].element[i]), pivot);
                sum[i] = __fadd_rn(sum[i], difference);
                squares[i] = __fadd_rn(squares[i], __fmul_rn(difference, difference));
            }
            const int rest = length - at - k * STEP;
            count += rest >= COUNT ? COUNT : rest > 0 ? rest : 0;
        }
    }
    // with differences d = x - p: sum x = sum d + n p, and sum x x = sum d d + p (sum d + sum x)
    const double of_differences = pairwise<T>(sum), p = pivot;
    Moments mine;
    mine.sum = __dadd_rn(of_differences, __dmul_rn(count, p));
    mine.squares = __dadd_rn(pairwise<T>(squares), __dmul_rn(p, __dadd_rn(of_differences, mine.sum)));
    const Moments total = reduced(mine, shared);
    if (threadIdx.x == 0) partial[static_cast<long long>(blockIdx.x) * gridDim.y + blockIdx.y] = total;
}

// y = (x - mean) * gain + offset. The mean is rounded to float32, the offset makes up for it.
struct Coefficients {
    float mean, gain, offset;
};

__device__ __forceinline__ double variance(double mean, double squares, double count) {
    const double value = __dsub_rn(__ddiv_rn(squares, count), __dmul_rn(mean, mean));
    return value < 0.0 ? 0.0 : value;
}

// A block merges the chunks of one channel.
__device__ __forceinline__ void coefficients(const Moments *__restrict__ partial, const float *__restrict__ scale,
                                             const float *__restrict__ bias, Coefficients *__restrict__ out,
                                             int chunks, int channels, long long voxels, float epsilon,
                                             Moments (&shared)[MERGING]) {
    const Moments *mine = partial + static_cast<long long>(blockIdx.x) * chunks;
    Moments sum{0, 0};
    for (int i = static_cast<int>(threadIdx.x); i < chunks; i += MERGING) sum = sum + mine[i];
    sum = reduced(sum, shared);
    if (threadIdx.x != 0) return;
    const int channel = blockIdx.x % channels;
    const double count = static_cast<double>(voxels), mean = __ddiv_rn(sum.sum, count);
    const double deviation = __dsqrt_rn(__dadd_rn(variance(mean, sum.squares, count), epsilon));
    const double gain = __ddiv_rn(scale[channel], deviation);
    const float rounded = __double2float_rn(mean);
    const double offset = __dsub_rn(bias[channel], __dmul_rn(__dsub_rn(mean, rounded), gain));
    out[blockIdx.x] = {rounded, __double2float_rn(gain), __double2float_rn(offset)};
}

// Blocks go through the tensor backwards: what `sums` read last is still in the L2 cache.
template <typename T>
__device__ __forceinline__ void apply(const T *__restrict__ x, const Coefficients *__restrict__ coefficients,
                                      T *__restrict__ y, long long voxels, int chunk) {
    constexpr int COUNT = Vector<T>::COUNT, STEP = THREADS * COUNT;
    const long long channel = gridDim.x - 1 - blockIdx.x;
    const long long begin = static_cast<long long>(gridDim.y - 1 - blockIdx.y) * chunk;
    const int length = static_cast<int>(voxels - begin < chunk ? voxels - begin : chunk);
    const Coefficients c = coefficients[channel];
    const T *from = x + channel * voxels + begin;
    T *to = y + channel * voxels + begin;
    for (int at = static_cast<int>(threadIdx.x) * COUNT; at < length; at += TOGETHER * STEP) {
        Vector<T> v[TOGETHER];
#pragma unroll
        for (int k = 0; k < TOGETHER; ++k) v[k] = loaded(from + at + k * STEP, length - at - k * STEP, T{});
#pragma unroll
        for (int k = 0; k < TOGETHER; ++k) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                const float centred = __fsub_rn(to_float(v[k].element[i]), c.mean);
                v[k].element[i] = from_float<T>(relu(__fadd_rn(__fmul_rn(centred, c.gain), c.offset)));
            }
            stored(v[k], to + at + k * STEP, length - at - k * STEP);
        }
    }
}

// ---- int8: x [N, blocks, voxels, 32], blocks = ceil(C / 32) --------------------------------------------------------

__device__ __forceinline__ int byte_of(const uint4 &v, int i) {
    const unsigned word = i < 4 ? v.x : i < 8 ? v.y : i < 12 ? v.z : v.w;
    return static_cast<int8>(word >> i % 4 * 8);
}

// A block sums one chunk of 32 channels: 32 sums, then 32 sums of squares. A chunk has at most 65536 voxels, so its
// sums of squares fit in 31 bits.
__device__ __forceinline__ void sums_int8(const int8 *__restrict__ x, int *__restrict__ partial, long long voxels,
                                          int chunk, int (&shared)[THREADS / 32][64]) {
    const long long begin = static_cast<long long>(blockIdx.y) * chunk;
    const int length = static_cast<int>(voxels - begin < chunk ? voxels - begin : chunk);
    const uint4 *from = reinterpret_cast<const uint4 *>(x) + 2 * (blockIdx.x * voxels + begin);
    int sum[16] = {}, squares[16] = {};
#pragma unroll 4
    for (int at = static_cast<int>(threadIdx.x); at < 2 * length; at += THREADS) {
        const uint4 v = from[at];
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int value = byte_of(v, i);
            sum[i] += value;
            squares[i] += value * value;
        }
    }
    const int side = threadIdx.x % 2, warp = threadIdx.x / 32;  // even lanes have channels 0..15, odd ones 16..31
    const unsigned mask = side == 0 ? 0x55555555u : 0xaaaaaaaau;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        sum[i] = __reduce_add_sync(mask, sum[i]);
        squares[i] = __reduce_add_sync(mask, squares[i]);
        if (threadIdx.x % 32 < 2) {
            shared[warp][side * 16 + i] = sum[i];
            shared[warp][32 + side * 16 + i] = squares[i];
        }
    }
    __syncthreads();
    if (threadIdx.x >= 64) return;
    int total = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; ++i) total += shared[i][threadIdx.x];
    partial[(static_cast<long long>(blockIdx.x) * gridDim.y + blockIdx.y) * 64 + threadIdx.x] = total;
}

// y = q * gain + offset, in steps of the output. A channel that is only there to fill 32 gets zeros.
struct Step {
    float gain, offset;
};

// A block merges the chunks of 32 channels. The order of the double operations is that of InstanceNormReluInt8.
__device__ __forceinline__ void coefficients_int8(const int *__restrict__ partial, const float *__restrict__ scale,
                                                  const float *__restrict__ bias, Step *__restrict__ out, int chunks,
                                                  int channels, long long voxels, float epsilon, float input_scale,
                                                  float output_scale, long long (&shared)[MERGING_INT8]) {
    const int column = threadIdx.x % 64;
    const int *mine = partial + static_cast<long long>(blockIdx.x) * chunks * 64 + column;
    long long total = 0;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x / 64); i < chunks; i += MERGING_INT8 / 64)
        total += mine[static_cast<long long>(i) * 64];
    shared[threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    long long sum = 0, squares = 0;
    for (int i = column; i < MERGING_INT8; i += 64) sum += shared[i], squares += shared[i + 32];
    const int channel = blockIdx.x % ((channels + 31) / 32) * 32 + column;
    Step step{0, 0};
    if (channel < channels) {
        const double count = static_cast<double>(voxels), from = input_scale, to = output_scale;
        const double mean = __ddiv_rn(static_cast<double>(sum), count);
        const double of_values = __dmul_rn(__dmul_rn(from, from), variance(mean, static_cast<double>(squares), count));
        const double deviation = __dsqrt_rn(__dadd_rn(of_values, epsilon));
        const double gain = __ddiv_rn(__dmul_rn(scale[channel], from), __dmul_rn(deviation, to));
        const double offset = __dsub_rn(__ddiv_rn(bias[channel], to), __dmul_rn(mean, gain));
        step = {__double2float_rn(gain), __double2float_rn(offset)};
    }
    out[static_cast<long long>(blockIdx.x) * 32 + column] = step;
}

// A thread has 16 channels, whose coefficients it keeps, and goes from voxel to voxel; backwards as `apply` does.
__device__ __forceinline__ void apply_int8(const int8 *__restrict__ x, const Step *__restrict__ steps,
                                           int8 *__restrict__ y, long long voxels, int chunk) {
    const long long block = gridDim.x - 1 - blockIdx.x;
    const long long begin = static_cast<long long>(gridDim.y - 1 - blockIdx.y) * chunk;
    const int length = static_cast<int>(voxels - begin < chunk ? voxels - begin : chunk);
    const uint4 *from = reinterpret_cast<const uint4 *>(x) + 2 * (block * voxels + begin);
    uint4 *to = reinterpret_cast<uint4 *>(y) + 2 * (block * voxels + begin);
    Step step[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) step[i] = steps[block * 32 + threadIdx.x % 2 * 16 + i];
#pragma unroll 2
    for (int at = static_cast<int>(threadIdx.x); at < 2 * length; at += THREADS) {
        const uint4 v = from[at];
        int q[16];
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const float value = __fadd_rn(__fmul_rn(__int2float_rn(byte_of(v, i)), step[i].gain), step[i].offset);
            q[i] = __float2int_rn(relu(value));
        }
        to[at] = {pack_s8(q[0], q[1], q[2], q[3]), pack_s8(q[4], q[5], q[6], q[7]),
                  pack_s8(q[8], q[9], q[10], q[11]), pack_s8(q[12], q[13], q[14], q[15])};
    }
}

}  // namespace trtforge
