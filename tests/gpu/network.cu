// The engine of test_windows.py: scores of a voxel are its value times a gain a class, and a bias a class and voxel.
#include "instructions.cuh"

__device__ void put(float *at, float value) { *at = value; }
__device__ void put(trtforge::half *at, float value) { *at = trtforge::float_to_half(value); }

template <typename From, typename To>
__device__ void scores(const From *x, const float *gain, const float *bias, To *y, int channels, int voxels) {
    const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), n = static_cast<int>(blockIdx.y);
    if (at >= voxels) return;
    const float value = x[static_cast<long long>(n) * voxels + at];
    for (int c = 0; c < channels; ++c) {
        const long long score = static_cast<long long>(c) * voxels + at;
        const float sum = __fadd_rn(__fmul_rn(value, gain[c]), bias[score]);
        put(y + static_cast<long long>(n) * channels * voxels + score, sum);
    }
}

#define NETWORK(NAME, FROM, TO)                                                                                     \
    extern "C" __global__ void NAME(const FROM *x, const float *gain, const float *bias, TO *y, int channels,       \
                                    int voxels) { scores(x, gain, bias, y, channels, voxels); }

NETWORK(float32_float32, float, float)
NETWORK(float32_float16, float, trtforge::half)
NETWORK(int8_float32, signed char, float)
NETWORK(int8_float16, signed char, trtforge::half)
