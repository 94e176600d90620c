// What the window loop computes on a GPU: windows cut out of a volume, and the accumulator they come back to.
//
// Plain C++17 but for CUDA's keywords, a few intrinsics and instructions.cuh, which host_shim.hpp gives to any other
// compiler: the tests run this very source on a CPU. Float arithmetic goes through __fmul_rn, __fadd_rn, __fsub_rn and
// __fdiv_rn, which are never contracted to a fused multiply-add: the bits are those of the accumulators in
// trtforge/runtime/windows.
#pragma once

#include "instructions.cuh"

namespace trtforge {

using uint8 = unsigned char;

// A voxel, or a size, along D, H and W.
struct Index {
    int z, y, x;
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(half bits) { return half_to_float(bits); }

// Where this thread stands: z is the block's, y and x count threads.
__device__ __forceinline__ Index place() {
    return {static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y),
            static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x)};
}

__device__ __forceinline__ long long offset(const Index &at, const Index &size) {
    return (static_cast<long long>(at.z) * size.y + at.y) * size.x + at.x;
}

__device__ __forceinline__ bool aligned(const void *pointer) {
    return (reinterpret_cast<unsigned long long>(pointer) & 15) == 0;
}

// ---- slice --------------------------------------------------------------------------------------------------------

// One window, linear [R, S, T], out of a volume [D, H, W]; `start` is its first voxel, which may lie outside.
template <typename From, typename To> struct Slice {
    const From *volume;
    To *window;
    Index size, window_size, start;
    From pad;     // voxels outside the volume
    float scale;  // of int8 values cut out of a float volume
};

// A float into int8: half to even, clipped to [-127, 127]; NaN: -127.
template <typename To, typename From> __device__ __forceinline__ To converted(From value, float scale) {
    if constexpr (sizeof(To) == sizeof(From)) {
        return value;
    } else {
        const float rounded = rintf(__fdiv_rn(value, scale));
        return static_cast<To>(rounded >= -127.0f ? (rounded <= 127.0f ? rounded : 127.0f) : -127.0f);
    }
}

// The volume's row under row (z, y) of the window, null outside the volume; from its first voxel on.
template <typename From, typename To>
__device__ __forceinline__ const From *row_under(const Slice<From, To> &s, int z, int y) {
    const Index at{s.start.z + z, s.start.y + y, 0};
    const bool inside = at.z >= 0 && at.z < s.size.z && at.y >= 0 && at.y < s.size.y;
    return inside ? s.volume + offset(at, s.size) : nullptr;
}

template <typename From> __device__ __forceinline__ From voxel(const From *row, int x, int width, From pad) {
    return row != nullptr && x >= 0 && x < width ? row[x] : pad;
}

template <typename T, int COUNT> union Elements {
    uint4 pieces[COUNT * sizeof(T) / 16];
    T element[COUNT];
};

// A thread writes 16 bytes of a row. It reads and writes them whole where they begin on a multiple of 16, otherwise by
// element.
template <typename From, typename To> __device__ __forceinline__ void slice(const Slice<From, To> &s) {
    constexpr int COUNT = 16 / sizeof(To);
    Index at = place();
    at.x *= COUNT;
    if (at.y >= s.window_size.y || at.x >= s.window_size.x) return;
    const From *row = row_under(s, at.z, at.y);
    const int x = s.start.x + at.x;
    Elements<From, COUNT> read;
    if (row != nullptr && x >= 0 && x + COUNT <= s.size.x && aligned(row + x)) {
#pragma unroll
        for (int i = 0; i < static_cast<int>(COUNT * sizeof(From) / 16); ++i)
            read.pieces[i] = reinterpret_cast<const uint4 *>(row + x)[i];
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) read.element[i] = voxel(row, x + i, s.size.x, s.pad);
    }
    Elements<To, COUNT> made;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) made.element[i] = converted<To>(read.element[i], s.scale);
    To *out = s.window + offset(at, s.window_size);
    if (at.x + COUNT <= s.window_size.x && aligned(out)) {
        *reinterpret_cast<uint4 *>(out) = made.pieces[0];
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (at.x + i < s.window_size.x) out[i] = made.element[i];
    }
}

// The same into CDHW32: 32 bytes a voxel, the first is its value, the others are zero. A thread writes half a voxel, so
// that a warp writes whole lines: nothing need be cleared beforehand, and no line is written in part.
template <typename From> __device__ __forceinline__ void slice_cdhw32(const Slice<From, int8> &s) {
    Index at = place();
    const int half_of = at.x & 1;
    at.x >>= 1;
    if (at.y >= s.window_size.y || at.x >= s.window_size.x) return;
    uint4 out{0, 0, 0, 0};
    if (half_of == 0) {
        const From value = voxel(row_under(s, at.z, at.y), s.start.x + at.x, s.size.x, s.pad);
        out.x = static_cast<uint8>(converted<int8>(value, s.scale));
    }
    reinterpret_cast<uint4 *>(s.window)[2 * offset(at, s.window_size) + half_of] = out;
}

// ---- accumulate ---------------------------------------------------------------------------------------------------

// One window's logits [channels, R, S, T] on their way into the sums of the volume.
template <typename Logit> struct Addition {
    const Logit *logits;
    const float *weights;  // wz [R], wy [S], wx [T], one after the other
    float *sums;           // [differences, *ring_size]
    uint8 *labels;         // of the window's first voxel in the volume [D, H, W]
    int *met_nan;          // set to 1 where a sum that becomes a label is NaN: the label means nothing then
    int channels;          // 1: the logit is itself the difference of class 1 to class 0
    float floor;           // no weight is smaller
    Index window_size;
    Index ring_size;       // the volume's size, but the window's along the slowest axis: there the sums are a ring
    Index slot;            // of the window's first voxel in the ring
    Index before;          // an earlier window covers what lies below this along any axis
    Index after;           // a later window covers what lies at or above this along any axis
    int plane, row;        // strides of the labels
};

template <typename Logit> __device__ __forceinline__ float weight_of(const Addition<Logit> &a, const Index &at) {
    const float *wy = a.weights + a.window_size.z, *wx = wy + a.window_size.y;
    const float product = __fmul_rn(__fmul_rn(a.weights[at.z], wy[at.y]), wx[at.x]);
    return product > a.floor ? product : a.floor;
}

__device__ __forceinline__ int around(int at, int size) { return at >= size ? at - size : at; }

// A thread adds one voxel: the first window over it stores, later ones add, and the last one writes the label instead:
// the largest class, the lower one of equals. The reads of a few classes come before their writes, so that they are
// under way together.
template <typename Logit> __device__ __forceinline__ void accumulate(const Addition<Logit> &a) {
    constexpr int TOGETHER = 2;
    const Index at = place();
    if (at.y >= a.window_size.y || at.x >= a.window_size.x) return;
    const bool first = at.z >= a.before.z && at.y >= a.before.y && at.x >= a.before.x;
    const bool last = at.z < a.after.z && at.y < a.after.y && at.x < a.after.x;
    const Index in_ring{around(a.slot.z + at.z, a.ring_size.z), around(a.slot.y + at.y, a.ring_size.y),
                        around(a.slot.x + at.x, a.ring_size.x)};
    const long long channel = offset({a.window_size.z, 0, 0}, a.window_size);
    const long long pitch = offset({a.ring_size.z, 0, 0}, a.ring_size);
    const Logit *logits = a.logits + offset(at, a.window_size);
    float *sums = a.sums + offset(in_ring, a.ring_size);

    const bool single = a.channels == 1;
    const int differences = single ? 1 : a.channels - 1;
    const float weight = weight_of(a, at), zeroth = to_float(logits[0]);
    float best = 0;
    int winner = 0;
    for (int begin = 0; begin < differences; begin += TOGETHER) {
        float logit[TOGETHER], sum[TOGETHER];
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            const int d = begin + i;
            logit[i] = !single && d < differences ? to_float(logits[(d + 1) * channel]) : zeroth;
            sum[i] = !first && d < differences ? sums[d * pitch] : 0;
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            const int d = begin + i;
            if (d >= differences) break;
            const float now = __fmul_rn(weight, single ? zeroth : __fsub_rn(logit[i], zeroth));
            const float total = first ? now : __fadd_rn(sum[i], now);
            if (!last) sums[d * pitch] = total;
            if (last && total != total) *a.met_nan = 1;
            winner = total > best ? d + 1 : winner;
            best = total > best ? total : best;
        }
    }
    if (last) a.labels[static_cast<long long>(at.z) * a.plane + at.y * a.row + at.x] = static_cast<uint8>(winner);
}

}  // namespace trtforge
