// The kernels of InstanceNormalization and Relu by name; instance_norm_relu.cuh says what they compute, launch.py how
// they are launched: `sums`, `coefficients`, `apply`, one after the other on one stream.
#include "instance_norm_relu.cuh"

using trtforge::Coefficients;
using trtforge::half;
using trtforge::int8;
using trtforge::Moments;
using trtforge::Step;

#define KERNEL(THREADS) extern "C" __global__ void __launch_bounds__(THREADS)

#define FLOAT(NAME, T)                                                                                                \
    KERNEL(256)                                                                                                       \
    sums_##NAME(const T *__restrict__ x, Moments *__restrict__ partial, long long voxels, int chunk) {                \
        __shared__ Moments shared[256];                                                                               \
        trtforge::sums(x, partial, voxels, chunk, shared);                                                            \
    }                                                                                                                 \
    KERNEL(256)                                                                                                       \
    apply_##NAME(const T *__restrict__ x, const Coefficients *__restrict__ coefficients, T *__restrict__ y,           \
                 long long voxels, int chunk) {                                                                       \
        trtforge::apply(x, coefficients, y, voxels, chunk);                                                           \
    }

FLOAT(float32, float)
FLOAT(float16, half)

KERNEL(64)
coefficients_float(const Moments *__restrict__ partial, const float *__restrict__ scale,
                   const float *__restrict__ bias, Coefficients *__restrict__ coefficients, int chunks, int channels,
                   long long voxels, float epsilon) {
    __shared__ Moments shared[64];
    trtforge::coefficients(partial, scale, bias, coefficients, chunks, channels, voxels, epsilon, shared);
}

KERNEL(256)
sums_int8_cdhw32(const int8 *__restrict__ x, int *__restrict__ partial, long long voxels, int chunk) {
    __shared__ int shared[8][64];
    trtforge::sums_int8(x, partial, voxels, chunk, shared);
}

KERNEL(512)
coefficients_int8(const int *__restrict__ partial, const float *__restrict__ scale, const float *__restrict__ bias,
                  Step *__restrict__ coefficients, int chunks, int channels, long long voxels, float epsilon,
                  float input_scale, float output_scale) {
    __shared__ long long shared[512];
    trtforge::coefficients_int8(partial, scale, bias, coefficients, chunks, channels, voxels, epsilon, input_scale,
                                output_scale, shared);
}

KERNEL(256)
apply_int8_cdhw32(const int8 *__restrict__ x, const Step *__restrict__ coefficients, int8 *__restrict__ y,
                  long long voxels, int chunk) {
    trtforge::apply_int8(x, coefficients, y, voxels, chunk);
}
