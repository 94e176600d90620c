// The kernels of the window loop; windows.cuh says what they compute, README.md how they are launched.
//
// Arguments are scalars: a launch gets them from Python one by one. Each kernel does one window.
#include "windows.cuh"

using trtforge::half;
using trtforge::int8;
using trtforge::uint8;

#define BOUNDS extern "C" __global__ void __launch_bounds__(256)

// `depth`, `height`, `width` of the volume, `r`, `s`, `t` of the window, `z`, `y`, `x` its first voxel.
#define SLICE(NAME, FROM, TO, FUNCTION)                                                                               \
    BOUNDS NAME(const FROM *__restrict__ volume, TO *__restrict__ window, int depth, int height, int width, int r,    \
                int s, int t, int z, int y, int x, FROM pad, float scale) {                                           \
        trtforge::FUNCTION(                                                                                           \
            trtforge::Slice<FROM, TO>{volume, window, {depth, height, width}, {r, s, t}, {z, y, x}, pad, scale});     \
    }

SLICE(slice_int8, int8, int8, slice)
SLICE(slice_float16, half, half, slice)
SLICE(slice_float32, float, float, slice)
SLICE(quantize_int8, float, int8, slice)
SLICE(slice_int8_cdhw32, int8, int8, slice_cdhw32)
SLICE(quantize_int8_cdhw32, float, int8, slice_cdhw32)

#define ACCUMULATE(NAME, LOGIT)                                                                                       \
    BOUNDS NAME(const LOGIT *__restrict__ logits, const float *__restrict__ weights, float *__restrict__ sums,        \
                uint8 *__restrict__ labels, int *__restrict__ met_nan, int channels, float floor, int r, int s,       \
                int t, int ring_z, int ring_y, int ring_x, int slot_z, int slot_y, int slot_x, int before_z,          \
                int before_y, int before_x, int after_z, int after_y, int after_x, int plane, int row) {              \
        trtforge::accumulate(trtforge::Addition<LOGIT>{logits, weights, sums, labels, met_nan, channels, floor,       \
                                                       {r, s, t}, {ring_z, ring_y, ring_x},                           \
                                                       {slot_z, slot_y, slot_x}, {before_z, before_y, before_x},      \
                                                       {after_z, after_y, after_x}, plane, row});                     \
    }

ACCUMULATE(accumulate_float16, half)
ACCUMULATE(accumulate_float32, float)
