// The innermost loops, over the rows of a window. `add_rows` is compiled for several vector lengths, and the one for
// this CPU is chosen when the module is loaded; what it calls are templates, so that each version inlines its own copy.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

// Older compilers lack these names, and other C libraries the means to choose.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define TRTFORGE_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define TRTFORGE_CLONES
#endif
#if defined(_MSC_VER)
#define TRTFORGE_INLINE __forceinline
#define TRTFORGE_RESTRICT __restrict
#define TRTFORGE_NO_ALIAS __pragma(loop(ivdep))
#else
#define TRTFORGE_INLINE inline __attribute__((always_inline))
#define TRTFORGE_RESTRICT __restrict__
#if defined(__clang__)
#define TRTFORGE_NO_ALIAS _Pragma("clang loop vectorize(assume_safety)")
#else
#define TRTFORGE_NO_ALIAS _Pragma("GCC ivdep")
#endif
#endif

namespace trtforge {

// What a window is to a block: the first over it, one in between, the last, or the only one.
enum class Turn { first, between, last, only };

// A window's logits and weights.
struct Window {
    const float *logits;          // [channels, depth, height, width]
    int64_t channels;             // 1: the logit is itself the difference of class 1 to class 0
    int64_t channel, plane, row;  // strides of the logits
    const float *wz, *wy, *wx;    // weights along the axes
    float floor;                  // no weight is smaller
};

// A block under a window.
struct Block {
    Turn turn;
    int64_t z, y, x;               // its first voxel, in the window
    int64_t depth, height, width;  // its size
    float *sums;                   // [differences, depth, height, width]; null: this is the only window over it
    uint8_t *labels;               // of its first voxel in the volume
    int64_t out_plane, out_row;    // strides of the volume
};

// CHANNELS: 0: known at run time only.
template <int CHANNELS> struct Row {
    const float *TRTFORGE_RESTRICT logits;
    const float *TRTFORGE_RESTRICT weights;
    int64_t channel;
    float row_weight, floor;

    TRTFORGE_INLINE float weighted(int64_t d, int64_t i) const {
        const float product = row_weight * weights[i];
        const float weight = product > floor ? product : floor;
        if constexpr (CHANNELS == 1) return weight * logits[i];
        return weight * (logits[(d + 1) * channel + i] - logits[i]);
    }
};

// Row (z, y) of a block.
template <int CHANNELS> TRTFORGE_INLINE Row<CHANNELS> row_of(const Window &w, const Block &b, int64_t z, int64_t y) {
    const int64_t in_z = b.z + z, in_y = b.y + y;
    return {w.logits + in_z * w.plane + in_y * w.row + b.x, w.wx + b.x, w.channel, w.wz[in_z] * w.wy[in_y], w.floor};
}

template <int CHANNELS, bool FIRST>
TRTFORGE_INLINE void sum_row(const Row<CHANNELS> &row, float *TRTFORGE_RESTRICT sums, int64_t pitch, int64_t width,
                             int64_t differences) {
    if constexpr (CHANNELS == 0) {
        for (int64_t d = 0; d < differences; ++d) {
            TRTFORGE_NO_ALIAS for (int64_t i = 0; i < width; ++i) {
                const float now = row.weighted(d, i);
                sums[d * pitch + i] = FIRST ? now : sums[d * pitch + i] + now;
            }
        }
    } else {
        TRTFORGE_NO_ALIAS for (int64_t i = 0; i < width; ++i) {
            for (int64_t d = 0; d < std::max(CHANNELS - 1, 1); ++d) {
                const float now = row.weighted(d, i);
                sums[d * pitch + i] = FIRST ? now : sums[d * pitch + i] + now;
            }
        }
    }
}

// The largest class, the lower one of equals. At most STEP voxels: what they won is kept in registers and cache.
// Returns whether a sum is NaN, which compares with nothing.
constexpr int64_t STEP = 64;

template <int CHANNELS, bool ONLY>
TRTFORGE_INLINE int32_t label_row(const Row<CHANNELS> &row, const float *TRTFORGE_RESTRICT sums, int64_t pitch,
                               int64_t begin, int64_t count, int64_t differences, uint8_t *TRTFORGE_RESTRICT labels) {
    int32_t winners[STEP], nan = 0;
    if constexpr (CHANNELS == 0) {
        float bests[STEP];
        for (int64_t i = 0; i < count; ++i) winners[i] = 0, bests[i] = 0;
        for (int64_t d = 0; d < differences; ++d) {
            TRTFORGE_NO_ALIAS for (int64_t i = 0; i < count; ++i) {
                const float now = row.weighted(d, begin + i);
                const float value = ONLY ? now : sums[d * pitch + begin + i] + now;
                winners[i] = value > bests[i] ? static_cast<int32_t>(d + 1) : winners[i];
                bests[i] = value > bests[i] ? value : bests[i];
                nan |= value != value;
            }
        }
    } else {
        TRTFORGE_NO_ALIAS for (int64_t i = 0; i < count; ++i) {
            float best = 0;
            int32_t winner = 0;
            for (int64_t d = 0; d < std::max(CHANNELS - 1, 1); ++d) {
                const float now = row.weighted(d, begin + i);
                const float value = ONLY ? now : sums[d * pitch + begin + i] + now;
                winner = value > best ? static_cast<int32_t>(d + 1) : winner;
                best = value > best ? value : best;
                nan |= value != value;
            }
            winners[i] = winner;
        }
    }
    for (int64_t i = 0; i < count; ++i) labels[begin + i] = static_cast<uint8_t>(winners[i]);
    return nan;
}

template <int CHANNELS> TRTFORGE_INLINE int32_t block_row(const Window &w, const Block &b, int64_t z, int64_t y) {
    const Row<CHANNELS> row = row_of<CHANNELS>(w, b, z, y);
    const int64_t pitch = b.depth * b.height * b.width, differences = std::max<int64_t>(w.channels - 1, 1);
    float *sums = b.turn == Turn::only ? nullptr : b.sums + (z * b.height + y) * b.width;
    if (b.turn == Turn::first) sum_row<CHANNELS, true>(row, sums, pitch, b.width, differences);
    if (b.turn == Turn::between) sum_row<CHANNELS, false>(row, sums, pitch, b.width, differences);
    if (b.turn == Turn::first || b.turn == Turn::between) return 0;
    uint8_t *labels = b.labels + z * b.out_plane + y * b.out_row;
    int32_t nan = 0;
    for (int64_t begin = 0; begin < b.width; begin += STEP) {
        const int64_t count = std::min(STEP, b.width - begin);
        nan |= b.turn == Turn::only
                   ? label_row<CHANNELS, true>(row, nullptr, pitch, begin, count, differences, labels)
                   : label_row<CHANNELS, false>(row, sums, pitch, begin, count, differences, labels);
    }
    return nan;
}

template <int CHANNELS> TRTFORGE_INLINE int32_t strip(const Window &w, const Block *blocks, int64_t count) {
    int32_t nan = 0;
    for (int64_t z = 0; z < blocks->depth; ++z)
        for (int64_t y = 0; y < blocks->height; ++y)
            for (int64_t at = 0; at < count; ++at) nan |= block_row<CHANNELS>(w, blocks[at], z, y);
    return nan;
}

// Adds a window to the blocks beside each other along x, row by row across all of them: the logits are read in the
// order in which they lie in memory. Returns whether a sum that became a label is NaN.
TRTFORGE_CLONES static int32_t add_rows(const Window &w, const Block *blocks, int64_t count) {
    switch (w.channels) {
    case 1: return strip<1>(w, blocks, count);
    case 2: return strip<2>(w, blocks, count);
    case 3: return strip<3>(w, blocks, count);
    default: return strip<0>(w, blocks, count);
    }
}

// The sums of one row after this window, to [differences, width].
static inline void totals(const Window &w, const Block &b, int64_t z, int64_t y, float *out) {
    const int64_t differences = std::max<int64_t>(w.channels - 1, 1), pitch = b.depth * b.height * b.width;
    for (int64_t d = 0; d < differences; ++d)
        for (int64_t i = 0; i < b.width; ++i) {
            const float now = w.channels == 1 ? row_of<1>(w, b, z, y).weighted(d, i)
                                              : row_of<0>(w, b, z, y).weighted(d, i);
            const int64_t at = d * pitch + (z * b.height + y) * b.width + i;
            out[d * b.width + i] = b.turn == Turn::only ? now : b.sums[at] + now;
        }
}

// Softmax over the first class (0) and the differences, each divided by the norm: [differences, count] sums become
// probabilities whose classes are `stride` apart.
static inline void softmax(const float *sums, const float *norm, int64_t count, int64_t differences, int64_t stride,
                           float *out) {
    for (int64_t i = 0; i < count; ++i) {
        float top = 0;
        for (int64_t d = 0; d < differences; ++d) top = std::max(top, sums[d * count + i] / norm[i]);
        float whole = std::exp(-top);
        out[i] = whole;
        for (int64_t d = 0; d < differences; ++d) {
            const float share = std::exp(sums[d * count + i] / norm[i] - top);
            out[(d + 1) * stride + i] = share;
            whole += share;
        }
        for (int64_t d = 0; d <= differences; ++d) out[d * stride + i] /= whole;
    }
}

}  // namespace trtforge
