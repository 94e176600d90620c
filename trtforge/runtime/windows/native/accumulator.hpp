// The accumulator of the window loop: weighted windows in, labels or probabilities out, block by block.
//
// A block is allocated by the first window over it and leaves at the last one, so memory follows the window and
// the plane, not the volume. Per voxel it holds, for each class but the first, the weighted sum of the difference
// to the first class: the largest class needs no more, and neither does softmax.
//
// Arithmetic is float32 in a fixed order, without fused multiply-add (the build sets -ffp-contract=off): the NumPy
// accumulator computes the same bits.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "rows.hpp"

namespace trtforge {

using Index = std::array<int64_t, 3>;  // along D, H and W

// One axis of the volume; the fields are those of `Segments` and `WindowWeights` in Python.
struct Axis {
    std::vector<int64_t> starts, cuts, first, last, span_begin, span_end;
    std::vector<float> weights;  // of a window's voxels
    std::vector<float> norm;     // per voxel of the volume: the sum of the weights over it
};

class Accumulator {
public:
    // channels: of a window's logits. One channel is a logit against nothing: label 1 where it is positive.
    // labels: uint8 [D, H, W]; probabilities: float32 [classes, D, H, W] or null; both outlive this object.
    Accumulator(std::array<Axis, 3> axes, int64_t channels, float floor, uint8_t *labels, float *probabilities)
        : axes_(std::move(axes)), channels_(channels), differences_(std::max<int64_t>(channels - 1, 1)),
          floor_(floor), labels_(labels), probabilities_(probabilities) {
        for (int a = 0; a < 3; ++a) {
            const Axis &axis = axes_[a];
            size_[a] = axis.cuts.back();
            window_[a] = static_cast<int64_t>(axis.weights.size());
            segments_[a] = static_cast<int64_t>(axis.cuts.size()) - 1;
            for (int64_t s = 0; s < segments_[a]; ++s)
                longest_[a] = std::max(longest_[a], axis.cuts[s + 1] - axis.cuts[s]);
        }
        blocks_.resize(static_cast<size_t>(segments_[0] * segments_[1] * segments_[2]), nullptr);
        row_.resize(static_cast<size_t>((differences_ + 1) * longest_[2]));
    }

    // Adds one window. logits: float32 [channels, window]; windows come in the order of the grid, each once.
    void push(const Index &index, const float *logits) {
        const auto &[z, y, x] = axes_;
        const int64_t plane = window_[1] * window_[2];
        const Window window{.logits = logits, .channels = channels_, .channel = window_[0] * plane, .plane = plane,
                            .row = window_[2], .wz = z.weights.data(), .wy = y.weights.data(),
                            .wx = x.weights.data(), .floor = floor_};
        for (int64_t sz = z.span_begin[index[0]]; sz < z.span_end[index[0]]; ++sz)
            for (int64_t sy = y.span_begin[index[1]]; sy < y.span_end[index[1]]; ++sy) {
                strip_.clear();
                for (int64_t sx = x.span_begin[index[2]]; sx < x.span_end[index[2]]; ++sx)
                    strip_.push_back(block(index, {sz, sy, sx}));
                nan_ = add_rows(window, strip_.data(), static_cast<int64_t>(strip_.size())) != 0 || nan_;
                for (size_t at = 0; at < strip_.size(); ++at)
                    finish(window, strip_[at], {sz, sy, x.span_begin[index[2]] + static_cast<int64_t>(at)});
            }
    }

    // Whether a class's sum was NaN where a label was written.
    bool met_nan() const { return nan_; }

    int64_t most_bytes() const { return static_cast<int64_t>(slots_.size()) * slot_floats() * 4; }

private:
    struct Free {
        std::align_val_t alignment;
        void operator()(float *memory) const { ::operator delete(memory, alignment); }
    };
    using Slot = std::unique_ptr<float, Free>;

    int64_t slot_floats() const { return differences_ * longest_[0] * longest_[1] * longest_[2]; }

    // Large blocks ask for huge pages: a window touches all of a block's pages, a row of each at a time.
    static Slot allocate(size_t bytes) {
        constexpr size_t PAGE = size_t{2} << 20, LINE = 64;
        const std::align_val_t alignment{bytes >= PAGE ? PAGE : LINE};
        Slot slot(static_cast<float *>(::operator new(bytes, alignment)), Free{alignment});
#if defined(__linux__)
        if (bytes >= PAGE) madvise(slot.get(), bytes / PAGE * PAGE, MADV_HUGEPAGE);
#endif
        return slot;
    }

    float *take() {
        if (free_.empty()) {
            slots_.push_back(allocate(static_cast<size_t>(slot_floats()) * 4));
            free_.push_back(slots_.back().get());
        }
        float *slot = free_.back();  // the one that left last: most likely still in the cache
        free_.pop_back();
        return slot;
    }

    float *&slot_of(const Index &s) {
        return blocks_[static_cast<size_t>((s[0] * segments_[1] + s[1]) * segments_[2] + s[2])];
    }

    // The block of segments `s` as the window `index` meets it, with memory if it is the first of several to come.
    Block block(const Index &index, const Index &s) {
        bool first = true, last = true;
        Index begin, length, inside;  // in the volume, of the block, and in the window
        for (int a = 0; a < 3; ++a) {
            const Axis &axis = axes_[a];
            first = first && axis.first[s[a]] == index[a];
            last = last && axis.last[s[a]] == index[a];
            begin[a] = axis.cuts[s[a]];
            length[a] = axis.cuts[s[a] + 1] - begin[a];
            inside[a] = begin[a] - axis.starts[index[a]];
        }
        const Turn turn = first ? (last ? Turn::only : Turn::first) : (last ? Turn::last : Turn::between);
        float *&slot = slot_of(s);
        if (turn == Turn::first) slot = take();
        if (slot == nullptr && turn != Turn::only)
            throw std::invalid_argument("windows come in the order of the grid, each once");
        const int64_t plane = size_[1] * size_[2];
        const int64_t voxel = begin[0] * plane + begin[1] * size_[2] + begin[2];
        return {.turn = turn, .z = inside[0], .y = inside[1], .x = inside[2],
                .depth = length[0], .height = length[1], .width = length[2], .sums = slot,
                .labels = labels_ + voxel, .out_plane = plane, .out_row = size_[2]};
    }

    // After the last window over a block: its probabilities, and its memory is free again.
    void finish(const Window &window, const Block &b, const Index &s) {
        if (b.turn != Turn::last && b.turn != Turn::only) return;
        if (probabilities_ != nullptr) soften(window, b, {axes_[0].cuts[s[0]], axes_[1].cuts[s[1]], axes_[2].cuts[s[2]]});
        if (b.turn == Turn::last) {
            free_.push_back(b.sums);
            slot_of(s) = nullptr;
        }
    }

    void soften(const Window &window, const Block &b, const Index &begin) {
        float *sums = row_.data(), *norm = sums + differences_ * b.width;
        for (int64_t z = 0; z < b.depth; ++z)
            for (int64_t y = 0; y < b.height; ++y) {
                const Index at{begin[0] + z, begin[1] + y, begin[2]};
                totals(window, b, z, y, sums);
                norm_of(at, b.width, norm);
                softmax(sums, norm, b.width, differences_, size_[0] * size_[1] * size_[2],
                        probabilities_ + (at[0] * size_[1] + at[1]) * size_[2] + at[2]);
            }
    }

    // The sum of the weights of all windows over each voxel of a row. A product of three sums where no weight is
    // raised to the floor; else the windows over the row are gone through.
    void norm_of(const Index &at, int64_t count, float *norm) const {
        const auto &[z, y, x] = axes_;
        if (floor_ == 0) {
            const float plane = z.norm[at[0]] * y.norm[at[1]];
            for (int64_t i = 0; i < count; ++i) norm[i] = plane * x.norm[at[2] + i];
            return;
        }
        std::fill(norm, norm + count, 0.0f);
        for (size_t kz = 0; kz < z.starts.size(); ++kz)
            for (size_t ky = 0; ky < y.starts.size(); ++ky)
                for (size_t kx = 0; kx < x.starts.size(); ++kx) {
                    const int64_t iz = at[0] - z.starts[kz], iy = at[1] - y.starts[ky], ix = at[2] - x.starts[kx];
                    if (iz < 0 || iz >= window_[0] || iy < 0 || iy >= window_[1] || ix < 0 || ix >= window_[2])
                        continue;  // a block is covered wholly or not at all, so its first voxel decides
                    const float plane = z.weights[iz] * y.weights[iy];
                    for (int64_t i = 0; i < count; ++i) norm[i] += std::max(plane * x.weights[ix + i], floor_);
                }
    }

    std::array<Axis, 3> axes_;
    Index size_{}, window_{}, segments_{}, longest_{};
    int64_t channels_, differences_;
    float floor_;
    uint8_t *labels_;
    float *probabilities_;
    std::vector<float *> blocks_, free_;
    std::vector<Slot> slots_;
    std::vector<Block> strip_;
    std::vector<float> row_;
    bool nan_ = false;
};

}  // namespace trtforge
