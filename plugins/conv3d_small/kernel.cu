// The kernels of the small 3-D convolutions by name; conv3d_small.cuh says what they compute, launch.py how they are
// launched.
#include "conv3d_small.cuh"

using trtforge::half;
using trtforge::int8;

#define KERNEL extern "C" __global__ void __launch_bounds__(256)

#define FIRST(NAME, STRIDE)                                                                                           \
    KERNEL NAME(const int8 *__restrict__ x, const int8 *__restrict__ w, const float *__restrict__ multiplier,         \
                const float *__restrict__ offset, int8 *__restrict__ y, int depth, int height, int width,             \
                int out_depth, int out_height, int out_width) {                                                       \
        __shared__ unsigned patch[trtforge::Patch<STRIDE>::SIZE];                                                     \
        trtforge::first<STRIDE>(x, w, multiplier, offset, y,                                                          \
                                {depth, height, width, out_depth, out_height, out_width}, patch);                     \
    }

FIRST(first_stride1_int8_cdhw32, 1)
FIRST(first_stride2_int8_cdhw32, 2)

#define LAST(NAME, T)                                                                                                 \
    KERNEL NAME(const int8 *__restrict__ x, const int8 *__restrict__ w, const float *__restrict__ multiplier,         \
                const float *__restrict__ offset, T *__restrict__ y, int channels, int outputs, long long voxels) {   \
        trtforge::last(x, w, multiplier, offset, y, channels, outputs, voxels);                                       \
    }

LAST(last_cdhw32_float32, float)
LAST(last_cdhw32_float16, half)
