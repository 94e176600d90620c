// The kernels of the res2 plugin; res2.cuh says what they compute, launch.py how they are launched.
#include "res2.cuh"

using trtforge::int8;

#define BOTTLENECK(NAME, IN, MID, PROJECTION)                                                                         \
    extern "C" __global__ void __launch_bounds__(trtforge::res2::THREADS)                                             \
        NAME(const int8 *__restrict__ x, int8 *__restrict__ y, const int8 *__restrict__ weights,                      \
             const float *__restrict__ scales, int height, int width) {                                               \
        using Shape = trtforge::res2::Shape<IN, MID, PROJECTION>;                                                     \
        __shared__ trtforge::res2::Shared<Shape> shared;                                                              \
        trtforge::res2::Bottleneck<Shape>{{x, y, weights, scales, height, width}, shared}.run();                      \
    }

BOTTLENECK(res2_projection_64, 64, 64, true)
BOTTLENECK(res2_identity_64, 256, 64, false)
BOTTLENECK(res2_projection_32, 64, 32, true)
BOTTLENECK(res2_identity_32, 128, 32, false)
