// The kernels of the 3-D pixel shuffle by name; pixel_shuffle_3d.cuh says what they compute, launch.py how they are
// launched. `skip` is not read, and may be null, where there are no channels of it.
#include "pixel_shuffle_3d.cuh"

using trtforge::int8;

#define KERNEL extern "C" __global__ void __launch_bounds__(256)

#define MOVE(NAME, T)                                                                                                 \
    KERNEL NAME(const T *__restrict__ x, const T *__restrict__ skip, T *__restrict__ y, int channels,                 \
                int skip_channels, int depth, int height, int width, int shuffling) {                                 \
        trtforge::shuffle_or_copy(x, skip, y, {channels, skip_channels, depth, height, width, shuffling});            \
    }

MOVE(shuffle_float32, unsigned)
MOVE(shuffle_float16, unsigned short)

KERNEL shuffle_int8_cdhw32(const int8 *__restrict__ x, const int8 *__restrict__ skip, int8 *__restrict__ y,
                           int channels, int skip_channels, int depth, int height, int width, int shuffling,
                           float ratio, float skip_ratio) {
    const trtforge::Sizes sizes{channels, skip_channels, depth, height, width, shuffling};
    if (static_cast<int>(blockIdx.x) < shuffling) {
        trtforge::shuffle_int8(x, y, ratio, sizes);
    } else {
        trtforge::copy_int8(skip, y, skip_ratio, sizes);
    }
}
